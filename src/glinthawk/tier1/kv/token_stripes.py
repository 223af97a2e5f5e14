"""Which of several workers keeps which tokens of a sequence. Knows numbers, never tensors.

Tokens are dealt by the page, so that whoever holds tokens holds whole pages but for a sequence's
last one, and the workers' pages together count as those of one home would.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from glinthawk.core.pages import Pages

__all__ = ["Stripes"]

_GOLDEN = (5**0.5 - 1) / 2


class Stripes:
    """Deals ``stripe_pages`` pages of a sequence in a row to one worker, then as many to the one
    that has the largest share of its pages free; so workers fill evenly, and a long sequence lies
    on all of them. With ``shares``, which sum up to one, each has its share of every sequence
    instead, page by page. Where a worker has no page left, another one goes on.

    A worker counts the tokens that it has of a sequence without gaps. It makes the same moves on
    pages (the same class), so a free page here is one there.

    >>> # pages of 4 tokens, stripes of one page, two workers: tokens 0-3 and 8-9 of 10 lie on
    >>> # worker 0, which counts them 0 to 5; tokens 4-7 lie on worker 1, which counts them 0 to 3
    """

    def __init__(
        self,
        num_pages: Sequence[int],
        page_tokens: int,
        stripe_pages: int,
        shares: Sequence[float] | None = None,
    ) -> None:
        self._page_tokens = page_tokens
        self._stripe_pages = stripe_pages
        self._shares = shares
        self._pages = [Pages(count, page_tokens) for count in num_pages]
        #: The worker of each page of a sequence.
        self._owners: dict[int, list[int]] = {}
        #: For each worker, which pages of a sequence it has, in rising order.
        self._held: dict[int, list[list[int]]] = {}

    @property
    def num_parts(self) -> int:
        return len(self._pages)

    def grow(self, sequence: int, num_tokens: int) -> bool:
        """Deal pages so that ``sequence`` has ``num_tokens``; False, and nothing dealt, if they run
        out."""
        owners = self._owners.get(sequence, [])
        need = -(-num_tokens // self._page_tokens) - len(owners)
        if need > sum(pages.num_free for pages in self._pages):
            return False
        for _ in range(need):
            self._deal(sequence)
        return True

    def share(self, source: int, sequence: int, num_tokens: int) -> None:
        """Let ``sequence``, which has nothing yet, begin with the first ``num_tokens`` tokens of
        ``source``, which are whole pages."""
        count, rest = divmod(num_tokens, self._page_tokens)
        assert not rest, "only whole pages are shared"
        assert sequence not in self._owners
        self._owners[sequence] = self._owners[source][:count]
        self._held[sequence] = [held[: bisect_left(held, count)] for held in self._held[source]]
        for pages, held in zip(self._pages, self._held[sequence], strict=True):
            if held:
                pages.share(source, sequence, len(held) * self._page_tokens)

    def release(self, sequence: int) -> list[int]:
        """Take back all pages of ``sequence``; returns the workers that had any."""
        self._owners.pop(sequence, None)
        held = self._held.pop(sequence, [])
        for pages in self._pages:
            pages.release(sequence)
        return [part for part, numbers in enumerate(held) if numbers]

    def count(self, sequence: int, part: int, position: int) -> int:
        """How many tokens before ``position`` a worker has, which is also where it counts on."""
        page, offset = divmod(position, self._page_tokens)
        held = self._held[sequence][part]
        whole = bisect_left(held, page)
        has_page = whole < len(held) and held[whole] == page
        return whole * self._page_tokens + (offset if has_page else 0)

    def pages(self, part: int) -> Pages:
        """The pages of one part, by number, which are to be read alone."""
        return self._pages[part]

    def runs(self, sequence: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Tokens ``start`` to ``end`` as (worker, begin, end), page by page."""
        owners = self._owners[sequence]
        while start < end:
            page = start // self._page_tokens
            stop = min(end, (page + 1) * self._page_tokens)
            yield owners[page], start, stop
            start = stop

    def validate(self) -> None:
        """The sums hold."""
        for part, pages in enumerate(self._pages):
            pages.validate()
            assert all(
                len(held) == len(self._held[sequence][part])
                for sequence, held in pages.held.items()
            )
        for sequence, owners in self._owners.items():
            held = [
                [i for i, o in enumerate(owners) if o == part] for part in range(self.num_parts)
            ]
            assert held == self._held[sequence]

    def _deal(self, sequence: int) -> None:
        owners = self._owners.setdefault(sequence, [])
        held = self._held.setdefault(sequence, [[] for _ in self._pages])
        part = self._next_owner(owners) if self._shares is None else self._most_due(sequence)
        held[part].append(len(owners))
        owners.append(part)
        grown = self._pages[part].grow(sequence, len(held[part]) * self._page_tokens)
        assert grown

    def _next_owner(self, owners: list[int]) -> int:
        if len(owners) % self._stripe_pages and self._pages[owners[-1]].num_free:
            return owners[-1]
        shares = [pages.num_free / pages.num_pages for pages in self._pages]
        return shares.index(max(shares))

    def _most_due(self, sequence: int) -> int:
        """Who lacks most of its share, of those with free pages.

        Sequences of few pages cannot be dealt as the shares say; so that many of them are, each one
        leans in its own way, as numbers of the golden ratio's multiples do evenly.
        """
        assert self._shares is not None
        held = self._held[sequence]
        count = 1 + sum(map(len, held))
        due = [share * count - len(pages) for share, pages in zip(self._shares, held, strict=True)]
        due[-1] += 1 - 2 * (sequence * _GOLDEN % 1)
        parts = [part for part, pages in enumerate(self._pages) if pages.num_free]
        return max(parts, key=due.__getitem__)
