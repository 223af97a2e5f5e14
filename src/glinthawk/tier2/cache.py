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
        #: Attends over the pages, and wants to hear when a step that ``begin`` has begun is over.
        self.backend: Backend
        if files:
            drives = self.backend = choice.make_on_drives(num_bytes, files)
            num_pages, most_sequences = drives.num_pages, drives.most_sequences
        else:
            num_pages = most_sequences = self._count(num_bytes)
            self.backend = choice.make(num_pages)
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
        return self.backend.kernel

    @property
    def peak_bytes(self) -> int:
        return self.pages.peak_used * self.page_bytes

    def begin(self, forks: Iterable[_Fork], *groups: _Columns) -> list[SpanTable | None]:
        """Pages for a step; a table for each group of spans, None for an empty one. The backend is
        to ``end`` each.

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
                self.backend.begin(table)
        except WireError:
            self.pages.undo()
            self.release(begun)
            raise
        for source, target in copies:
            self.backend.copy_page(source, target)
        return tables

    def release(self, sequences: list[int]) -> None:
        """Forget ``sequences``."""
        self.backend.release(self.pages.release(sequences))

    def clear(self) -> None:
        """Forget all sequences."""
        self.backend.release(self.pages.clear())
