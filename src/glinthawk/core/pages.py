"""Which pages of KV belong to which sequence, by number."""

__all__ = ["Pages"]


class Pages:
    """Hands pages to sequences; pages of common prefixes belong to several.

    The scheduler and the home keep one each and make the same moves in the same order, so that
    both always count alike. ``free + used == num_pages``, shared pages counted once.
    """

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.num_free = num_pages
        self.held: dict[int, list[int]] = {}
        #: Holders of each page that has more than one.
        self._holders: dict[int, int] = {}
        self._returned: list[int] = []
        self._num_touched = 0

    @property
    def num_used(self) -> int:
        return self.num_pages - self.num_free

    @property
    def peak_used(self) -> int:
        """Most pages used at one time: returned ones are handed out before new ones."""
        return self._num_touched

    @property
    def num_tokens(self) -> int:
        """Tokens that fit when nothing else is here."""
        return self.num_pages * self.page_tokens

    def missing(self, sequence: int, num_tokens: int) -> int:
        """Pages to add so that ``sequence`` holds ``num_tokens``."""
        return max(0, self._count(num_tokens) - len(self.held.get(sequence, ())))

    def grow(self, sequence: int, num_tokens: int) -> bool:
        """Give ``sequence`` pages for ``num_tokens``; False, and nothing given, if they run out."""
        need = self.missing(sequence, num_tokens)
        if need > self.num_free:
            return False
        self.held.setdefault(sequence, []).extend(self._take() for _ in range(need))
        return True

    def share(self, source: int, sequence: int, num_tokens: int) -> None:
        """Let ``sequence``, which holds nothing yet, hold the first pages of ``source`` too."""
        assert sequence not in self.held
        pages = self.held[source][: self._count(num_tokens)]
        self.held[sequence] = pages
        for page in pages:
            self._holders[page] = self._holders.get(page, 1) + 1

    def num_shared(self, sequence: int, start: int, end: int) -> int:
        """Pages under tokens ``start`` to ``end`` that others hold too."""
        touched = self.held.get(sequence, [])[start // self.page_tokens : self._count(end)]
        return sum(page in self._holders for page in touched)

    def unshare(self, sequence: int, start: int, end: int) -> list[tuple[int, int]]:
        """Copy on write: (old page, own page) for each shared page under tokens ``start`` to
        ``end``. There must be as many free pages as ``num_shared`` says."""
        pages = self.held[sequence]
        copies = []
        for index in range(start // self.page_tokens, min(self._count(end), len(pages))):
            if pages[index] in self._holders:
                copies.append((pages[index], self._take()))
                self._give_back(pages[index])
                pages[index] = copies[-1][1]
        return copies

    def take_back(self, sequence: int, num_pages: int, copies: list[tuple[int, int]]) -> None:
        """As if ``sequence`` had grown no further than ``num_pages``, and ``unshare`` had not made
        ``copies`` last."""
        pages = self.held[sequence]
        while len(pages) > num_pages:
            self._give_back(pages.pop())
        for page, own in reversed(copies):
            pages[pages.index(own)] = page
            self._holders[page] = self._holders.get(page, 1) + 1
            self._give_back(own)
        if not pages:
            del self.held[sequence]

    def release(self, sequence: int) -> list[int]:
        """Take all pages of ``sequence`` back; an unknown one holds none. Returns those that nobody
        else holds."""
        return [page for page in self.held.pop(sequence, ()) if self._give_back(page)]

    def validate(self) -> None:
        """The sums hold."""
        counted: dict[int, int] = {}
        for pages in self.held.values():
            assert len(pages) == len(set(pages))
            for page in pages:
                counted[page] = counted.get(page, 0) + 1
        assert len(counted) == self.num_used
        assert self._holders == {page: count for page, count in counted.items() if count > 1}
        assert not counted.keys() & set(self._returned)

    def _count(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_tokens)

    def _take(self) -> int:
        self.num_free -= 1
        if self._returned:
            return self._returned.pop()
        self._num_touched += 1
        return self._num_touched - 1

    def _give_back(self, page: int) -> bool:
        """Whether it is free now."""
        holders = self._holders.get(page, 1) - 1
        if holders == 0:
            self._returned.append(page)
            self.num_free += 1
        elif holders == 1:
            del self._holders[page]
        else:
            self._holders[page] = holders
        return holders == 0
