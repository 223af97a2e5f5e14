"""Which pages hold the KV of which sequence. Knows numbers, never tensors of keys or values."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from glinthawk.core.errors import WireError
from glinthawk.core.pages import Pages

__all__ = ["PageTable", "SpanTable", "cut_to_window", "see_all"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SpanTable:
    """Rows of one step and where their KV lies; the same for every layer, so it is made once.

    Span ``i`` is ``lengths[i]`` new tokens from position ``starts[i]``. Its pages, in order of
    position, are ``pages[offsets[i] : offsets[i + 1]]`` and cover ``starts[i] + lengths[i]``
    tokens. All are int32 tensors on the CPU.

    >>> # pages of 4 tokens: a decode row at position 5 in pages 9, 2 and a prompt of 3 in page 7
    >>> # starts [5, 0]  lengths [1, 3]  pages [9, 2, 7]  offsets [0, 2, 3]
    """

    starts: torch.Tensor  # (S,)
    lengths: torch.Tensor  # (S,)
    pages: torch.Tensor  # (P,)
    offsets: torch.Tensor  # (S + 1,)
    num_rows: int
    #: The oldest token that rows of a span see, if their layer's window reaches so far; None: 0.
    oldest: torch.Tensor | None = None  # (S,)


class PageTable:
    """Pages, and how many tokens of each sequence have been written to them."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.peak_used = 0
        self._pages = Pages(num_pages, page_tokens)
        #: Tokens that each sequence has had room for so far; the next span begins there or before.
        self._tokens: dict[int, int] = {}
        #: What the last ``reserve`` found: (sequence, its pages, its tokens or None, copies).
        self._before: list[tuple[int, int, int | None, list[tuple[int, int]]]] = []

    @property
    def num_used(self) -> int:
        return self._pages.num_used

    @property
    def num_sequences(self) -> int:
        """Sequences that have KV here."""
        return len(self._tokens)

    def num_tokens(self, sequence: int) -> int:
        """Tokens that ``sequence`` has had room for so far."""
        return self._tokens.get(sequence, 0)

    def release(self, sequences: Iterable[int]) -> list[int]:
        """Take back all pages of ``sequences``; unknown ones hold none. Returns those that are free
        now."""
        freed = []
        for sequence in sequences:
            freed += self._pages.release(sequence)
            self._tokens.pop(sequence, None)
        return freed

    def clear(self) -> list[int]:
        """Take back all pages, whatever was left half done; returns them."""
        held = {page for pages in self._pages.held.values() for page in pages}
        self._pages = Pages(self.num_pages, self.page_tokens)
        self._tokens.clear()
        return list(held)

    def share(self, source: int, sequence: int, num_tokens: int) -> None:
        """Begin ``sequence`` with the first ``num_tokens`` tokens of ``source``, without a copy.

        Raises WireError when ``source`` has fewer, or ``sequence`` has begun already.
        """
        if not 0 < num_tokens <= self._tokens.get(source, 0):
            raise WireError(
                f"sequence {source} has no {num_tokens} tokens to share; prefill them instead"
            )
        if sequence in self._tokens:
            raise WireError(f"sequence {sequence} has KV already and cannot begin with another's")
        self._pages.share(source, sequence, num_tokens)
        self._tokens[sequence] = num_tokens

    def rewind(self, sequences: list[int], starts: list[int]) -> None:
        """What sequences hold from ``starts`` on was never written, or not in all layers."""
        for sequence, start in zip(sequences, starts, strict=True):
            if sequence in self._tokens:
                self._tokens[sequence] = min(self._tokens[sequence], start)

    def reserve(
        self, sequences: list[int], starts: list[int], lengths: list[int]
    ) -> list[tuple[int, int]]:
        """Give every span the pages it needs for itself; returns (page, page to copy it to) for
        those that are shared so far.

        Raises WireError, and gives nothing, when the pages run out or a span leaves a gap.
        """
        spans = list(zip(sequences, starts, lengths, strict=True))
        need = sum(self._missing(*span) for span in spans)
        if need > self._pages.num_free:
            raise WireError(
                f"the KV cache needs {need} more pages and has {self._pages.num_free} free; "
                "the scheduler must pre-empt first"
            )
        copies = []
        self._before = []
        for sequence, start, length in spans:
            end = start + length
            num_pages = len(self._pages.held.get(sequence, ()))
            self._pages.grow(sequence, end)
            own = self._pages.unshare(sequence, start, end)
            self._before.append((sequence, num_pages, self._tokens.get(sequence), own))
            copies += own
            self._tokens[sequence] = max(self._tokens.get(sequence, 0), end)
        self.peak_used = max(self.peak_used, self.num_used)
        return copies

    def undo(self) -> None:
        """As if the last ``reserve``, after which nothing happened, had not been."""
        for sequence, num_pages, tokens, copies in reversed(self._before):
            self._pages.take_back(sequence, num_pages, copies)
            if tokens is None:
                del self._tokens[sequence]
            else:
                self._tokens[sequence] = tokens
        self._before = []

    def _missing(self, sequence: int, start: int, length: int) -> int:
        """Free pages that this span takes: new ones, and own ones for those that are shared."""
        if start > self._tokens.get(sequence, 0):
            raise WireError(
                f"sequence {sequence} has no KV before position {start}; prefill it again"
            )
        end = start + length
        return self._pages.missing(sequence, end) + self._pages.num_shared(sequence, start, end)

    def table(self, sequences: list[int], starts: list[int], lengths: list[int]) -> SpanTable:
        """Reserve, and look up; raises as ``reserve``. Not for shared pages, which want copies."""
        copies = self.reserve(sequences, starts, lengths)
        assert not copies
        return self.look_up(sequences, starts, lengths)

    def look_up(self, sequences: list[int], starts: list[int], lengths: list[int]) -> SpanTable:
        """Where the pages of spans are that have been reserved."""
        pages: list[int] = []
        offsets = [0]
        for sequence, start, length in zip(sequences, starts, lengths, strict=True):
            count = -(-(start + length) // self.page_tokens)
            pages.extend(self._pages.held[sequence][:count])
            offsets.append(len(pages))
        return SpanTable(
            _int32(starts), _int32(lengths), _int32(pages), _int32(offsets), sum(lengths)
        )

    def look_at(self, sequences: list[int], firsts: list[int], ends: list[int]) -> SpanTable:
        """One row for each of ``sequences``, which sees its tokens [first, end); pages before those
        are left out, so that positions in the table count from the first that is not."""
        held = {number: _int32(self._pages.held[number]) for number in set(sequences)}
        seen: list[torch.Tensor] = []
        starts, oldest, offsets = [], [], [0]
        for sequence, first, end in zip(sequences, firsts, ends, strict=True):
            skipped = first // self.page_tokens
            seen.append(held[sequence][skipped : -(-end // self.page_tokens)])
            offsets.append(offsets[-1] + len(seen[-1]))
            starts.append(end - 1 - skipped * self.page_tokens)
            oldest.append(first - skipped * self.page_tokens)
        return SpanTable(
            _int32(starts),
            torch.ones(len(starts), dtype=torch.int32),
            torch.cat(seen),
            _int32(offsets),
            len(starts),
            _int32(oldest),
        )


def cut_to_window(table: SpanTable, window: int | None, page_tokens: int) -> SpanTable:
    """``table`` without the pages before all that a span's rows see; its positions count from the
    first page that is left. For tables without ``oldest``.

    >>> # pages of 4 tokens, a window of 3: position 9 in pages 5, 6, 8 -> position 5 in 6, 8
    """
    if window is None:
        return table
    counts = table.offsets.diff()
    skipped = (table.starts - (window - 1)).clamp(min=0) // page_tokens
    numbers = torch.arange(len(table.pages)) - table.offsets[:-1].repeat_interleave(counts)
    offsets = torch.cat([table.offsets[:1], (counts - skipped).cumsum(0)])
    return replace(
        table,
        starts=table.starts - skipped * page_tokens,
        pages=table.pages[numbers >= skipped.repeat_interleave(counts)],
        offsets=offsets.to(torch.int32),
    )


def see_all(pages: torch.Tensor, page_tokens: int) -> SpanTable:
    """A table of one row that sees all of ``pages`` (P,), which are full."""
    num_pages = len(pages)
    return SpanTable(
        _int32([num_pages * page_tokens - 1]), _int32([1]), pages, _int32([0, num_pages]), 1
    )


def _int32(column: list[int]) -> torch.Tensor:
    return torch.tensor(column, dtype=torch.int32)
