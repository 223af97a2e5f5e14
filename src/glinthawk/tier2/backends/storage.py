"""Attention near storage: pages that memory does not hold lie on drives, and stream by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from glinthawk import _native
from glinthawk.core.errors import DriveFailed, WireError, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.backends.native_arguments import make_layers
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["StorageBackend"]


class StorageBackend(NativeBackend):
    """The native kernels over pages of which ``memory_bytes`` hold some; ``files`` have room for
    all. Outputs are the same bits as if all were in memory.

    Raises DriveFailed from the moment on when a drive has failed or given back other bytes than
    were written: then nothing here can be trusted.
    """

    def __init__(
        self,
        layers: tuple[AttentionLayer, ...],
        page_tokens: int,
        kv_dtype: str,
        memory_bytes: int,
        files: Sequence[PageFile],
        threads: int = 0,
        isa: str = "auto",
        only_threads: bool = False,
    ) -> None:
        """``only_threads`` reads by threads even where io_uring is there."""
        try:
            engine = _native.DriveEngine(
                make_layers(layers),
                page_tokens,
                kv_dtype,
                threads,
                isa,
                memory_bytes,
                [(file.descriptor, file.num_bytes, str(file.folder)) for file in files],
                only_threads,
            )
        except (ValueError, TypeError) as error:
            raise WorkerRefused(f"this KV cache cannot be made: {error}") from error
        super().__init__(layers, engine.num_pages, page_tokens, kv_dtype, engine=engine)
        self._drives = engine

    @property
    def num_pages(self) -> int:
        """Pages that the drives hold."""
        return self._drives.num_pages

    @property
    def most_sequences(self) -> int:
        """Each has a last page that waits for tokens, in memory; the other half of memory is for
        pages on their way to a drive."""
        return self._drives.stats().num_frames // 2

    @property
    def stats(self) -> "_native.StorageStats":
        """Bytes read from drives and written to them, and frames of memory."""
        return self._drives.stats()

    def validate(self) -> None:
        """The sums of frames hold; raises RuntimeError if not."""
        self._drives.validate()

    def begin(self, table: SpanTable) -> None:
        plan = self._plan(table)
        with self._trusting():
            try:
                self._drives.begin(plan)
            except ValueError as error:
                raise WireError(f"a step cannot begin: {error}; send fewer sequences") from error

    def end(self, table: SpanTable) -> None:
        with self._trusting():
            self._drives.end(self._plan(table))

    def release(self, pages: Sequence[int]) -> None:
        numbers = torch.tensor(pages, dtype=torch.int32)
        self._drives.release(numbers.data_ptr(), len(pages))

    def append(
        self, layer: int, table: SpanTable, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        with self._trusting():
            super().append(layer, table, keys, values)

    def attend(
        self, layer: int, table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with self._trusting():
            return super().attend(layer, table, queries)

    def append_attend(
        self,
        layer: int,
        table: SpanTable,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with self._trusting():
            return super().append_attend(layer, table, queries, keys, values)

    def read(self, layer: int, table: SpanTable) -> torch.Tensor:
        with self._trusting():
            return super().read(layer, table)

    def copy_page(self, source: int, target: int) -> None:
        with self._trusting():
            super().copy_page(source, target)

    @contextmanager
    def _trusting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not self._drives.failure:  # not theirs: too little memory for an answer
                raise
            raise DriveFailed(f"{error}; start the worker without this drive") from error
        except ValueError as error:
            raise WireError(f"this is out of order: {error}") from error
