"""Which sequences at a home begin with which pages of tokens."""

from collections.abc import Iterator

from glinthawk.core.sequence import Sequence

__all__ = ["Prefixes"]


class Prefixes:
    """Finds, among the sequences added, one that begins with the same whole pages as another.

    A page is known by the hash of all tokens up to its end, so one look a page is enough.
    """

    def __init__(self, page_tokens: int) -> None:
        self._page_tokens = page_tokens
        self._by_page: dict[int, dict[int, Sequence]] = {}
        self._pages_of: dict[int, list[int]] = {}

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.id in self._pages_of

    def add(self, sequence: Sequence) -> None:
        """Its prompt's pages are here."""
        self._pages_of[sequence.id] = list(_page_hashes(sequence.request.prompt, self._page_tokens))
        for page in self._pages_of[sequence.id]:
            self._by_page.setdefault(page, {})[sequence.id] = sequence

    def discard(self, sequence: Sequence) -> None:
        """They are here no longer, if they were."""
        for page in self._pages_of.pop(sequence.id, ()):
            del self._by_page[page][sequence.id]
            if not self._by_page[page]:
                del self._by_page[page]

    def find(self, prompt: tuple[int, ...]) -> tuple[Sequence | None, int]:
        """Who shares the most whole pages with ``prompt``, and how many tokens those are.

        At least one token is left over: a step needs a row to sample after.
        """
        source, num_tokens = None, 0
        if not self._by_page:
            return None, 0
        for count, page in enumerate(_page_hashes(prompt[:-1], self._page_tokens), start=1):
            if page not in self._by_page:
                break
            source = next(iter(self._by_page[page].values()))
            num_tokens = count * self._page_tokens
        if source is None or source.request.prompt[:num_tokens] != prompt[:num_tokens]:
            return None, 0  # nothing, or two texts of one hash
        return source, num_tokens


def _page_hashes(prompt: tuple[int, ...], page_tokens: int) -> Iterator[int]:
    page = 0
    for end in range(page_tokens, len(prompt) + 1, page_tokens):
        page = hash((page, prompt[end - page_tokens : end]))
        yield page
