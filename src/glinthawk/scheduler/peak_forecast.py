"""What will be held at a home, kept in a form that takes one sequence more at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "PeakForecast"]

Integers = NDArray[np.int64]

#: Places for other lengths, before the columns grow.
_SPARE = 64


class PeakForecast:
    """Sums of ``(tokens now, tokens still to come)``, by what is still to come.

    Of the sequences that end together only their sum matters to the peak, so a question takes time
    by how many different lengths are to come, not by how many sequences there are; and little of
    it, for NumPy looks at all of them at once. ``tests/scheduler/plain_peak.py`` is the slow truth.
    """

    def __init__(self, page_tokens: int, now: Integers, left: Integers) -> None:
        self._half_page = page_tokens // 2  # on average the last page is half empty
        counts = np.bincount(left)
        lefts = np.flatnonzero(counts)
        number = _sum_from_the_last(counts[lefts])
        # Exact: sums of tokens are far below 2^53.
        tokens = np.bincount(left, now + self._half_page)[lefts].astype(np.int64)
        self._size = len(lefts)
        #: Tokens still to come, ascending; how many sequences have at least as many to come; and
        #: what those hold right before the first of them ends.
        self._left = _with_spare(lefts)
        self._number = _with_spare(number)
        self._peak = _with_spare(_sum_from_the_last(tokens) + number * lefts)

    def add(self, now: int, left: int) -> None:
        """One more is there."""
        end = self._end(left)
        if end == 0 or self._left[end - 1] != left:
            self._insert(end, left)
            end += 1
        self._number[:end] += 1
        peaks = self._peak[:end]
        peaks += self._left[:end]
        peaks += now + self._half_page

    def peak_with(self, now: int, left: int) -> int:
        """The most tokens at one time, of all that were added and this one."""
        end = self._end(left)
        own = now + self._half_page
        peak = own + left + self._peak_at(end, left)
        if end:
            # It is there when those end that are shorter.
            shorter = np.maximum.reduce(self._peak[:end] + self._left[:end])
            peak = max(peak, own + int(shorter))
        if end < self._size:
            peak = max(peak, int(np.maximum.reduce(self._peak[end : self._size])))
        return peak

    def _end(self, left: int) -> int:
        """How many lengths are not longer than ``left``."""
        return int(self._left[: self._size].searchsorted(left, "right"))

    def _peak_at(self, place: int, left: int) -> int:
        """What those from ``place`` on hold together, when ``left`` more tokens have come."""
        if place == self._size:
            return 0
        sooner = int(self._left[place]) - left
        return int(self._peak[place]) - int(self._number[place]) * sooner

    def _insert(self, place: int, left: int) -> None:
        """A length that none has yet."""
        number = int(self._number[place]) if place < self._size else 0
        peak = self._peak_at(place, left)
        if self._size == len(self._left):
            self._left, self._number, self._peak = map(
                _with_spare, (self._left, self._number, self._peak)
            )
        for column, value in (self._left, left), (self._number, number), (self._peak, peak):
            column[place + 1 : self._size + 1] = column[place : self._size]
            column[place] = value
        self._size += 1


def _sum_from_the_last(values: NDArray[Any]) -> NDArray[Any]:
    """Each with the sum of those behind it."""
    return values[::-1].cumsum()[::-1]


def _with_spare(values: NDArray[Any]) -> Integers:
    return np.concatenate((values, np.zeros(_SPARE, np.int64)))
