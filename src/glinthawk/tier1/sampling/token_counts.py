"""Which tokens have come, and how often."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["TokenCounts"]


class TokenCounts:
    """Distinct tokens in the order in which they first came, with their counts, as arrays that
    grow: a step adds its own tokens and recounts nothing."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._places: dict[int, int] = {}
        self._tokens = np.zeros(16, np.int64)
        self._counts = np.zeros(16, np.int64)
        self.add(tokens)

    def add(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token
            self._counts[place] += 1

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """(N,), a view."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(N,), a view."""
        return self._counts[: len(self._places)]
