"""Which pages of KV belong to which sequence. Knows numbers, never tensors of keys or values."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from glinthawk.core.errors import WireError

__all__ = ["PageTable", "SpanTable"]


@dataclass(frozen=True, slots=True)
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


class PageTable:
    """Hands pages to sequences. ``free + used == num_pages`` at all times."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.peak_used = 0
        self._free = list(range(num_pages - 1, -1, -1))
        self._pages: dict[int, list[int]] = {}
        #: Tokens that each sequence has had room for so far; the next span begins there or before.
        self._tokens: dict[int, int] = {}

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

    def release(self, sequences: Iterable[int]) -> None:
        """Take back all pages of ``sequences``; unknown ones hold none."""
        for sequence in sequences:
            self._free.extend(self._pages.pop(sequence, ()))
            self._tokens.pop(sequence, None)

    def reserve(self, sequences: list[int], starts: list[int], lengths: list[int]) -> None:
        """Give every span the pages it needs.

        Raises WireError, and gives nothing, when the pages run out or a span leaves a gap.
        """
        needs = [self._missing(*span) for span in zip(sequences, starts, lengths, strict=True)]
        if sum(needs) > len(self._free):
            raise WireError(
                f"the KV cache needs {sum(needs)} more pages and has {len(self._free)} free; "
                "the scheduler must pre-empt first"
            )
        for sequence, start, length, need in zip(sequences, starts, lengths, needs, strict=True):
            owned = self._pages.setdefault(sequence, [])
            owned.extend(self._free.pop() for _ in range(need))
            self._tokens[sequence] = max(self._tokens.get(sequence, 0), start + length)
        self.peak_used = max(self.peak_used, self.num_used)

    def _missing(self, sequence: int, start: int, length: int) -> int:
        """Pages to add so that ``sequence`` holds ``start + length`` tokens."""
        owned = len(self._pages.get(sequence, ()))
        if start > self._tokens.get(sequence, 0):
            raise WireError(
                f"sequence {sequence} has no KV before position {start}; prefill it again"
            )
        return max(0, self._num_pages(start + length) - owned)

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_tokens)

    def table(self, sequences: list[int], starts: list[int], lengths: list[int]) -> SpanTable:
        """Where the pages of spans are, reserved if they were not; raises as ``reserve``."""
        self.reserve(sequences, starts, lengths)
        pages: list[int] = []
        offsets = [0]
        for sequence, start, length in zip(sequences, starts, lengths, strict=True):
            pages.extend(self._pages[sequence][: self._num_pages(start + length)])
            offsets.append(len(pages))
        return SpanTable(
            starts=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            pages=torch.tensor(pages, dtype=torch.int32),
            offsets=torch.tensor(offsets, dtype=torch.int32),
            num_rows=sum(lengths),
        )
