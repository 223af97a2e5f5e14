"""A step's rows as tables of numbers for the Triton kernels: where rows go, and pieces of work.

Made on the CPU once a step, and sent to the device without waiting for it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["WIDE", "Cut", "Pieces", "StepTables"]

_Ints = NDArray[np.int64]

#: Query rows (heads of a group times tokens) that one program holds: the least that a matrix
#: product takes, and more for a span that has them, so that its keys are read less often.
_NARROW = 16
WIDE = 64


@dataclass(frozen=True, slots=True)
class Cut:
    """What decides how a layer's rows are cut into pieces."""

    group: int
    window: int | None
    #: Query rows of a wide piece, if a token's heads are not more.
    wide: int = WIDE

    @property
    def rows(self) -> tuple[int, int]:
        """Query rows of a narrow and of a wide piece: powers of two, a token's heads at least."""
        least = 1 << (self.group - 1).bit_length()
        return max(_NARROW, least), max(self.wide, least)

    @property
    def tokens(self) -> tuple[int, int]:
        """New tokens of a narrow and of a wide piece."""
        narrow, wide = self.rows
        return narrow // self.group, wide // self.group


@dataclass(frozen=True, slots=True)
class Pieces:
    """Work for ``attend_kernel`` and ``merge_kernel``.

    A piece is (first row, rows, first one's position, first page, begin, end, first part, is wide):
    new tokens of one span over tokens [begin, end) of its sequence. It makes a part for every row.
    """

    narrow: torch.Tensor  # (W, 8): spans of few tokens, cut at multiples of the chunk size
    wide: torch.Tensor  # (W', 8): spans of many, which need no cut to keep a device busy
    merges: torch.Tensor  # (T, 4): a row's (first part, stride, number of parts, 0)
    num_parts: int


class StepTables:
    """The tables of one SpanTable on a device, int32.

    How a span is cut depends on that span alone, and so does, therefore, every bit of its result.
    """

    def __init__(
        self, table: SpanTable, page_tokens: int, chunk_tokens: int, device: torch.device
    ) -> None:
        self._chunk_tokens = chunk_tokens
        self._device = device
        self._spans = _Spans(table)
        self._pieces: dict[Cut, Pieces] = {}
        slots = self._spans.slots(page_tokens)
        #: slots (T, 2): page and place in it of every new token; pages (P,) of all spans.
        self.slots, self.pages = _send([slots, self._spans.pages], device)

    def pieces(self, cut: Cut) -> Pieces:
        """Made once for all layers that are cut alike."""
        if cut not in self._pieces:
            self._pieces[cut] = self._cut(cut)
        return self._pieces[cut]

    def _cut(self, cut: Cut) -> Pieces:
        pieces, merges, num_parts = self._spans.tiles(cut).cut(self._chunk_tokens)
        is_wide = pieces[:, 7] == 1
        narrow, wide, rows = _send([pieces[~is_wide], pieces[is_wide], merges], self._device)
        return Pieces(narrow, wide, rows, num_parts)


class _Spans:
    """The columns of a SpanTable as arrays."""

    def __init__(self, table: SpanTable) -> None:
        columns = (table.starts, table.lengths, table.pages, table.offsets)
        self.starts, self.lengths, self.pages, self.offsets = (
            column.numpy().astype(np.int64) for column in columns
        )
        self.oldest = np.zeros_like(self.starts)
        if table.oldest is not None:
            self.oldest = table.oldest.numpy().astype(np.int64)
        self.first_rows = np.cumsum(self.lengths) - self.lengths

    def slots(self, page_tokens: int) -> _Ints:
        """(T, 2): page and place in it of every new token."""
        span, index = _repeat(self.lengths)
        position = self.starts[span] + index
        page = self.pages[self.offsets[span] + position // page_tokens]
        return np.stack([page, position % page_tokens], axis=1)

    def tiles(self, cut: Cut) -> "_Tiles":
        """Each span's new tokens, a few at a time."""
        narrow, wide = cut.tokens
        is_wide = self.lengths > narrow
        size = np.where(is_wide, wide, narrow)
        span, index = _repeat(-(-self.lengths // size))
        skipped = index * size[span]
        rows = np.minimum(size[span], self.lengths[span] - skipped)
        positions = self.starts[span] + skipped
        oldest = self.oldest[span]
        if cut.window is not None:
            oldest = np.maximum(oldest, positions - cut.window + 1)
        return _Tiles(
            first_rows=self.first_rows[span] + skipped,
            rows=rows,
            positions=positions,
            first_pages=self.offsets[span],
            oldest=oldest,
            ends=positions + rows,
            is_wide=is_wide[span],
        )


@dataclass(frozen=True, slots=True)
class _Tiles:
    """New tokens that are served together, and the tokens [oldest, end) that they see."""

    first_rows: _Ints
    rows: _Ints
    positions: _Ints
    first_pages: _Ints
    oldest: _Ints
    ends: _Ints
    is_wide: NDArray[np.bool_]

    def cut(self, chunk: int) -> tuple[_Ints, _Ints, int]:
        """Pieces (W, 8), the last column 1 in wide ones; merges (T, 4); number of parts."""
        first_chunk = self.oldest // chunk
        counts = np.where(self.is_wide, 1, (self.ends - 1) // chunk - first_chunk + 1)
        num_parts = self.rows * counts
        first_parts = np.cumsum(num_parts) - num_parts
        tile, index = _repeat(counts)
        chunk_begin = (first_chunk[tile] + index) * chunk
        begin = np.maximum(self.oldest[tile], chunk_begin)
        end = np.where(
            self.is_wide[tile], self.ends[tile], np.minimum(self.ends[tile], chunk_begin + chunk)
        )
        columns: list[Any] = [self.first_rows, self.rows, self.positions, self.first_pages]
        columns = [column[tile] for column in columns]
        columns += [begin, end, first_parts[tile] + index * self.rows[tile], self.is_wide[tile]]
        return np.stack(columns, axis=1), self._merges(first_parts, counts), int(num_parts.sum())

    def _merges(self, first_parts: _Ints, counts: _Ints) -> _Ints:
        tile, index = _repeat(self.rows)
        columns = [first_parts[tile] + index, self.rows[tile], counts[tile], np.zeros_like(tile)]
        return np.stack(columns, axis=1)


def _repeat(counts: _Ints) -> tuple[_Ints, _Ints]:
    """Whose each of sum(counts) things is, and its number there.

    >>> _repeat(np.array([2, 1]))
    (array([0, 0, 1]), array([0, 1, 0]))
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


def _send(arrays: list[_Ints], device: torch.device) -> list[torch.Tensor]:
    """``arrays`` as int32 on ``device`` in one copy that nobody waits for.

    Each begins at a multiple of 16 bytes: for other addresses Triton compiles another kernel.
    """
    sizes = [-(-array.size // 4) * 4 for array in arrays]
    joined = torch.zeros(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    for part, array in zip(joined.split(sizes), arrays, strict=True):
        part[: array.size] = torch.from_numpy(array.reshape(-1))
    on_device = joined.to(device, non_blocking=True).split(sizes)
    return [
        part[: array.size].view(array.shape) for part, array in zip(on_device, arrays, strict=True)
    ]
