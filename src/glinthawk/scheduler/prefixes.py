"""Which sequences at a home begin with which pages of tokens."""

from collections.abc import Iterator

from glinthawk.core.rope import LengthRope
from glinthawk.core.sequence import Sequence

__all__ = ["Prefixes"]

#: How its sequence is rotated, which adapter computed it, and the hash of all tokens up to its end.
_Page = tuple[int, int, int]


class Prefixes:
    """Finds, among the sequences added, one that begins with the same whole pages as another.

    A page is known by the hash of all tokens up to its end, so one look a page is enough. Those
    that ``rope`` rotates in another way, or another adapter computes, are none of the same.
    """

    def __init__(self, page_tokens: int, rope: LengthRope | None = None) -> None:
        self._page_tokens, self._rope = page_tokens, rope
        self._by_page: dict[_Page, dict[int, Sequence]] = {}
        self._pages_of: dict[int, list[_Page]] = {}

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.id in self._pages_of

    def add(self, sequence: Sequence) -> None:
        """Its prompt's pages are here."""
        self._pages_of[sequence.id] = list(self._pages(sequence, sequence.request.prompt))
        for page in self._pages_of[sequence.id]:
            self._by_page.setdefault(page, {})[sequence.id] = sequence

    def discard(self, sequence: Sequence) -> None:
        """They are here no longer, if they were."""
        for page in self._pages_of.pop(sequence.id, ()):
            del self._by_page[page][sequence.id]
            if not self._by_page[page]:
                del self._by_page[page]

    def find(self, sequence: Sequence) -> tuple[Sequence | None, int]:
        """Who shares the most whole pages with its prompt, and how many tokens those are.

        At least one token is left over: a step needs a row to sample after.
        """
        source, num_tokens, prompt = None, 0, sequence.request.prompt
        if not self._by_page:
            return None, 0
        for count, page in enumerate(self._pages(sequence, prompt[:-1]), start=1):
            if page not in self._by_page:
                break
            source = next(iter(self._by_page[page].values()))
            num_tokens = count * self._page_tokens
        if source is None or source.request.prompt[:num_tokens] != prompt[:num_tokens]:
            return None, 0  # nothing, or two texts of one hash
        return source, num_tokens

    def _pages(self, sequence: Sequence, tokens: tuple[int, ...]) -> Iterator[_Page]:
        group = 0 if self._rope is None else self._rope.group(sequence)
        page, size = 0, self._page_tokens
        for end in range(size, len(tokens) + 1, size):
            page = hash((page, tokens[end - size : end]))
            yield group, sequence.request.adapter, page
