"""Which custom_ids have more than one answer, of many million."""

from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

__all__ = ["RepeatedIds"]


class RepeatedIds:
    """Keeps 8 bytes an id: its hash. Ids whose hashes are equal are compared when they are read
    again, so two are never confused."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, ids: Iterable[str]) -> None:
        """Ids of answers."""
        self._hashes.extend(map(hash, ids))

    @property
    def is_likely(self) -> bool:
        """Whether one is there twice, or else two hashes are equal."""
        return bool(self._equal())

    def among(self, again: Iterable[str]) -> list[str]:
        """Those that are there twice, when all ids come ``again``."""
        equal = self._equal()
        counts = Counter(one for one in again if hash(one) in equal)
        return [name for name, count in counts.items() if count > 1]

    def _equal(self) -> set[int]:
        hashes = np.sort(np.frombuffer(self._hashes, np.int64))
        return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
