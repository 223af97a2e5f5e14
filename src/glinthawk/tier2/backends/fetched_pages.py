"""Attention over KV pages that workers have sent, for a Tier 1 that is a CPU."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError, WireError
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.pages.page_table import SpanTable, cut_to_window

__all__ = ["FetchedPages", "FetchedRows"]


class FetchedRows:
    """Rows of one step. A worker says anew in each layer where their pages are, mostly the same,
    so that a table, and what the kernels make of it, serves many layers."""

    def __init__(self, starts: list[int], lengths: list[int]) -> None:
        self._whole = _whole_table(starts, lengths)
        self._tables: dict[int | None, SpanTable] = {}

    def table(self, window: int | None, places: memoryview) -> SpanTable:
        """Rows over the pages at ``places`` (P,), as many as are in sight. Raises WireError."""
        table = self._in_sight(window)
        if places.nbytes != table.pages.nbytes:
            raise WireError(
                f"an answer of the wrong size: {places.nbytes} bytes of places, not "
                f"{table.pages.nbytes}"
            )
        pages = torch.frombuffer(places, dtype=torch.int32)
        if not torch.equal(pages, table.pages):
            table = replace(table, pages=pages)
        self._tables[window] = table
        return table

    def count_pages(self, window: int | None) -> int:
        """That are in sight."""
        return len(self._in_sight(window).pages)

    def _in_sight(self, window: int | None) -> SpanTable:
        if window not in self._tables:
            self._tables[window] = cut_to_window(self._whole, window, PAGE_TOKENS)
        return self._tables[window]


class FetchedPages:
    """Attends over pages as the native backend of a worker packs them, and keeps none."""

    def __init__(self, layers: Sequence[AttentionLayer], kv_dtype: str, threads: int) -> None:
        """Raises UsageError for shapes that the native kernels do not take."""
        self._layers = tuple(layers)
        if not BackendChoice(self._layers, kv_dtype, torch.device("cpu")).is_native:
            raise UsageError(
                "`kv_placement` fetch needs the native kernels, which do not take this model's "
                "head sizes; use `kv_placement` near"
            )
        self._backend = NativeBackend(
            self._layers, 1, PAGE_TOKENS, kv_dtype, threads, on_torch_threads=True
        )

    def num_bytes(self, layer: int, rows: FetchedRows) -> int:
        """Of the pages that rows see in a layer, each row's counted by itself."""
        return rows.count_pages(self._layers[layer].window) * self._backend.unit_bytes(layer)

    def lay_out(self, starts: list[int], lengths: list[int]) -> FetchedRows:
        """A step's spans of ``lengths`` new tokens from positions ``starts``."""
        return FetchedRows(starts, lengths)

    def attend(
        self,
        layer: int,
        rows: FetchedRows,
        pages: memoryview,
        places: memoryview,
        queries: torch.Tensor,
    ) -> torch.Tensor:
        """queries (T, H, D) -> output (T, H, Dv). Raises WireError for pages that do not fit."""
        table = rows.table(self._layers[layer].window, places)
        num_pages = int(table.pages.max()) + 1
        expected = num_pages * self._backend.unit_bytes(layer)
        if num_pages < 1 or pages.nbytes != expected:
            raise WireError(
                f"an answer of the wrong size: {pages.nbytes} bytes of pages, not {expected}"
            )
        units = torch.frombuffer(pages, dtype=torch.uint8).view(num_pages, -1)
        return self._backend.attend_packed(layer, table, units, queries)


def _whole_table(starts: list[int], lengths: list[int]) -> SpanTable:
    """Every page from the first on, one span's after the other's."""
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    offsets = torch.tensor([0, *(-(-end // PAGE_TOKENS) for end in ends)]).cumsum(0)
    return SpanTable(
        torch.tensor(starts, dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.int32),
        torch.arange(int(offsets[-1]), dtype=torch.int32),
        offsets.to(torch.int32),
        sum(lengths),
    )
