"""A KV cache of a fixed size: pages for sequences, and a backend that computes over them."""

from collections.abc import Iterable, Sequence

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WireError, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.core.units import format_size
from glinthawk.tier2.backends.backend import Backend
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.pages.page_table import PageTable, SpanTable

__all__ = ["KVCache"]

#: A page's number has 32 bits.
_MOST_PAGES = 2**31 - 1

#: (source, sequence, number of tokens)
_Fork = tuple[int, int, int]
#: sequences, starts, lengths
_Columns = tuple[list[int], list[int], list[int]]


class KVCache:
    """The KV of many sequences over all layers of one model, in ``num_bytes`` of memory.

    ``threads`` attend, 0 for all cores; torch's own, where torch computes beside them. With
    ``files``, which have room for all of it, memory holds only a part.
    """

    def __init__(
        self,
        layers: tuple[AttentionLayer, ...],
        num_bytes: int,
        kv_dtype: str,
        device: torch.device | str = "cpu",
        threads: int = 0,
        backend: str = "auto",
        on_torch_threads: bool = False,
        files: Sequence[PageFile] = (),
    ) -> None:
        choice = BackendChoice(
            layers, kv_dtype, torch.device(device), threads, backend, on_torch_threads
        )
        self.page_bytes = choice.page_bytes
        self._backend: Backend
        if files:
            drives = self._backend = choice.make_on_drives(num_bytes, files)
            num_pages, most_sequences = drives.num_pages, drives.most_sequences
        else:
            num_pages = most_sequences = self._count(num_bytes)
            self._backend = choice.make(num_pages)
        #: How many sequences it can hold at one time.
        self.most_sequences = most_sequences
        self.pages = PageTable(num_pages, PAGE_TOKENS)

    def _count(self, num_bytes: int) -> int:
        """Pages in memory alone."""
        num_pages = min(num_bytes // self.page_bytes, _MOST_PAGES)
        if num_pages < 1:
            raise WorkerRefused(
                f"{format_size(num_bytes)} of KV memory hold not one page of this model "
                f"({format_size(self.page_bytes)}); give at least that"
            )
        return num_pages

    @property
    def kernel(self) -> str:
        """What attends: caches that name the same one come to the same bits."""
        return self._backend.kernel

    @property
    def peak_bytes(self) -> int:
        return self.pages.peak_used * self.page_bytes

    def begin(self, forks: Iterable[_Fork], *groups: _Columns) -> list[SpanTable | None]:
        """Pages for a step; a table for each group of spans, None for an empty one. Each is to be
        ended.

        Every fork (source, sequence, n) first lets a new sequence begin with the first n tokens of
        another. Raises WireError, and changes nothing, if any of it cannot be.
        """
        begun: list[int] = []
        try:
            for source, sequence, num_tokens in forks:
                self.pages.share(source, sequence, num_tokens)
                begun.append(sequence)
            sequences, starts, lengths = (
                [number for column in columns for number in column]
                for columns in zip(*groups, strict=True)
            )
            copies = self.pages.reserve(sequences, starts, lengths)
        except WireError:
            self.release(begun)
            raise
        tables = [self.pages.look_up(*columns) if columns[0] else None for columns in groups]
        written = [table for table in tables if table is not None]
        if len(written) > 1:  # all or none
            written = [self.pages.look_up(sequences, starts, lengths)]
        try:
            for table in written:
                self._backend.begin(table)
        except WireError:
            self.pages.undo()
            self.release(begun)
            raise
        for source, target in copies:
            self._backend.copy_page(source, target)
        return tables

    def end(self, table: SpanTable) -> None:
        """Nobody will write to the spans of a step's table any more."""
        self._backend.end(table)

    def store(self, layer: int, table: SpanTable, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keep keys (T, K, D) and values (T, K, Dv) of new tokens."""
        self._backend.append(layer, table, k, v)

    def attend(
        self, layer: int, table: SpanTable, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Keep the new tokens' keys and values, then attend: queries (T, H, D) -> (T, H, Dv)."""
        return self._backend.append_attend(layer, table, q, k, v)[0]

    def look_at(self, sequences: list[int], firsts: list[int], ends: list[int]) -> SpanTable:
        """A table of rows that each see tokens [first, end) of a sequence, which are here."""
        return self.pages.look_at(sequences, firsts, ends)

    def query(
        self, layer: int, table: SpanTable, q: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend over what is kept: queries (T, H, D) -> output (T, H, Dv), log-sum-exp (T, H)."""
        return self._backend.attend(layer, table, q)

    def unit_bytes(self, layer: int) -> int:
        """Bytes of one page in a layer, as ``read`` packs it. Raises WorkerRefused where pages
        cannot be read."""
        return self._backend.unit_bytes(layer)

    def read(self, layer: int, table: SpanTable) -> torch.Tensor:
        """The pages of ``table`` in a layer, packed one after the other (P, unit bytes)."""
        return self._backend.read(layer, table)

    def release(self, sequences: list[int]) -> None:
        """Forget ``sequences``."""
        self._backend.release(self.pages.release(sequences))

    def clear(self) -> None:
        """Forget all sequences."""
        self._backend.release(self.pages.clear())
