"""KV room at one home: pages that are used now, and pages that will be."""

from collections.abc import Iterable

__all__ = ["Room", "peak_tokens"]


class Room:
    """Counts a home's pages exactly as its worker does. ``free + used == num_pages``."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.num_free = num_pages
        self.pages: dict[int, int] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens that fit when nothing else is here."""
        return self.num_pages * self.page_tokens

    def grow(self, sequence: int, num_tokens: int) -> bool:
        """Give ``sequence`` pages for ``num_tokens``; False, and nothing given, if they run out."""
        owned = self.pages.get(sequence, 0)
        more = -(-num_tokens // self.page_tokens) - owned
        if more > self.num_free:
            return False
        self.pages[sequence] = max(owned, owned + more)
        self.num_free -= max(0, more)
        return True

    def release(self, sequence: int) -> None:
        """Take all pages of ``sequence`` back."""
        self.num_free += self.pages.pop(sequence)

    def validate(self) -> None:
        """The sums hold."""
        assert self.num_free + sum(self.pages.values()) == self.num_pages
        assert self.num_free >= 0


def peak_tokens(sequences: Iterable[tuple[int, int]], page_tokens: int) -> int:
    """Most tokens that ``sequences`` will hold at one time if all step together until they end.

    ``sequences`` are (tokens now, tokens still to come). When the ones that end first are gone, the
    longer ones have grown by as much: the peak lies right before one of the endings.

    >>> peak_tokens([(10, 5), (20, 1)], page_tokens=1)  # 31 + 1 before the second ends; 15 later
    32
    """
    peak = total = 0
    longest_first = sorted(sequences, key=lambda pair: -pair[1])
    for count, (now, left) in enumerate(longest_first, start=1):
        total += now + page_tokens // 2  # on average the last page is half empty
        peak = max(peak, total + count * left)
    return peak
