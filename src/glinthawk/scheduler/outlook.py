"""What will be held at a home, kept in a form that takes one sequence more at a time."""

from bisect import insort
from collections.abc import Iterable
from operator import neg

__all__ = ["Outlook"]


class Outlook:
    """Sums of ``(tokens now, tokens still to come)``, by what is still to come.

    Of the sequences that end together only their sum matters to the peak, so a question takes time
    by how many different lengths are to come, not by how many sequences there are.
    """

    def __init__(self, page_tokens: int, sequences: Iterable[tuple[int, int]] = ()) -> None:
        self._half_page = page_tokens // 2  # on average the last page is half empty
        #: Tokens now and number of those with so much to come.
        self._sums: dict[int, tuple[int, int]] = {}
        for now, left in sequences:
            self._count(now, left)
        self._longest_first = sorted(self._sums, reverse=True)

    def add(self, now: int, left: int) -> None:
        """One more is there."""
        if left not in self._sums:
            insort(self._longest_first, left, key=neg)
        self._count(now, left)

    def peak_with(self, now: int, left: int) -> int:
        """``room.peak_tokens`` of all that were added and this one."""
        peak = total = count = 0
        is_new = True
        for other in self._longest_first:
            if is_new and other <= left:
                is_new, count, total = False, count + 1, total + now + self._half_page
                peak = max(peak, total + count * left)
            tokens, number = self._sums[other]
            total, count = total + tokens, count + number
            if total + count * other > peak:
                peak = total + count * other
        if is_new:
            peak = max(peak, total + now + self._half_page + (count + 1) * left)
        return peak

    def _count(self, now: int, left: int) -> None:
        tokens, number = self._sums.get(left, (0, 0))
        self._sums[left] = tokens + now + self._half_page, number + 1
