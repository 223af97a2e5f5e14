"""Of one sequence: the tokens whose logits its parameters change."""

import numpy as np
import numpy.typing as npt

from glinthawk.core.sequence import Sequence

__all__ = ["COLUMNS", "TokenRules"]

#: What ``TokenRules.table`` says of a token: its id, whether it came before, how often it came in
#: the answer, what is added to its logit, and whether it would end the answer.
COLUMNS = ("token", "seen", "count", "bias", "end")
_TOKEN, _SEEN, _COUNT, _BIAS, _END = range(len(COLUMNS))


class TokenRules:
    """A table that grows: a step adds its own tokens and recounts nothing."""

    def __init__(self, sequence: Sequence) -> None:
        params = sequence.request.params
        self._bad = sequence.request.bad_tokens
        self._repeats = params.repetition_penalty != 1
        self._counts = bool(params.frequency_penalty or params.presence_penalty)
        #: Whether they change logits once the answer may end, too.
        self.is_lasting = self._repeats or self._counts or bool(params.logit_bias)
        self.is_lasting = self.is_lasting or bool(self._bad)
        self._places: dict[int, int] = {}
        self._table = np.zeros((len(COLUMNS), 16))
        #: Tokens of the answer that are counted.
        self.num_known = 0
        for token, bias in params.logit_bias.items():
            self._set(_BIAS, token, bias)
        self._biases = params.logit_bias
        for token in sequence.request.stop_ids if params.min_tokens else ():
            self._set(_END, token, 1)
        for token in sequence.request.prompt if self._repeats else ():
            self._set(_SEEN, token, 1)

    def catch_up(self, output: list[int]) -> None:
        """Count the tokens that have come since the last call; answers only grow."""
        assert len(output) >= self.num_known
        for token in output[self.num_known :] if self._repeats or self._counts else ():
            place = self._place(token)
            self._table[_SEEN, place] = self._repeats
            self._table[_COUNT, place] += self._counts
        self.num_known = len(output)
        self._forbid(output)

    @property
    def table(self) -> npt.NDArray[np.float64]:
        """(5, N): COLUMNS of N distinct tokens; a view."""
        return self._table[:, : len(self._places)]

    def _forbid(self, output: list[int]) -> None:
        """The last tokens of bad words whose others stand at the end of ``output``."""
        for *_, last in self._bad:
            self._set(_BIAS, last, self._biases.get(last, 0))
        for *before, last in self._bad:
            if output[len(output) - len(before) :] == before:
                self._set(_BIAS, last, -np.inf)

    def _set(self, column: int, token: int, value: float) -> None:
        # Its place first: the table may become another one.
        place = self._place(token)
        self._table[column, place] = value

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._places))
        if place == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[_TOKEN, place] = token
        return place
