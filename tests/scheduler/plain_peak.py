"""The most tokens that sequences will hold at one time, counted plainly."""

from collections.abc import Iterable
from operator import itemgetter

__all__ = ["peak_tokens"]


def peak_tokens(sequences: Iterable[tuple[int, int]], page_tokens: int) -> int:
    """Most tokens that ``sequences`` will hold at one time if all step together until they end:
    the slow truth of ``PeakForecast.peak_with``.

    ``sequences`` are (tokens now, tokens still to come). When the ones that end first are gone, the
    longer ones have grown by as much: the peak lies right before one of the endings.

    >>> peak_tokens([(10, 5), (20, 1)], page_tokens=1)  # 31 + 1 before the second ends; 15 later
    32
    """
    peak = total = 0
    half_page = page_tokens // 2  # on average the last page is half empty
    longest_first = sorted(sequences, key=itemgetter(1), reverse=True)
    for count, (now, left) in enumerate(longest_first, start=1):
        total += now + half_page
        if total + count * left > peak:
            peak = total + count * left
    return peak
