"""Which backend attends over a cache's pages, and how much memory a page takes there."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WorkerRefused
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer, page_bytes
from glinthawk.tier2.backends import native
from glinthawk.tier2.backends.backend import Backend
from glinthawk.tier2.backends.storage import StorageBackend
from glinthawk.tier2.backends.torch import TorchBackend
from glinthawk.tier2.backends.triton_layer import SMALL_TILE, tile_size
from glinthawk.tier2.pages.page_files import PageFile

__all__ = ["BackendChoice"]

#: What the native kernels take, in multiples of 8, and the Triton kernels any of up to the largest.
_SMALLEST_HEAD, _LARGEST_HEAD, _LARGEST_GROUP = 8, 256, 64
#: The oldest GPUs that Triton compiles for, and the first with more than 64 KiB of shared memory.
_LEAST_CAPABILITY, _LARGE_CAPABILITY = (7, 5), (8, 0)


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend by name: ``native`` (C++, CPU), ``triton`` (GPU), ``torch`` (plain), or ``auto``:
    native or Triton where they take the device and the shapes."""

    layers: tuple[AttentionLayer, ...]
    kv_dtype: str
    device: torch.device
    threads: int = 0
    name: str = "auto"
    on_torch_threads: bool = False

    @property
    def kind(self) -> str:
        """The backend that serves this cache. Raises WorkerRefused when the one that was asked for
        cannot."""
        if self.name == "auto":
            return "native" if self._fits_native else "triton" if self._fits_triton else "torch"
        if self.name == "native" and not self._fits_native:
            raise WorkerRefused("the native backend does not take this device or these head sizes")
        if self.name == "triton":
            self._check_triton()
        return self.name

    @property
    def is_native(self) -> bool:
        """Whether the native kernels serve this cache."""
        return self.kind == "native"

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers."""
        kind = self.kind
        if kind == "native":
            return native.page_bytes(self.layers, PAGE_TOKENS, self.kv_dtype)
        if kind == "torch" and self.kv_dtype not in DTYPE_BYTES:
            raise WorkerRefused(
                f"KV in {self.kv_dtype} needs the native backend (a CPU, and head sizes that are "
                f"multiples of 8 from {_SMALLEST_HEAD} to {_LARGEST_HEAD}) or the triton backend "
                f"(a GPU, Triton, and head sizes up to {_LARGEST_HEAD})"
            )
        return page_bytes(self.layers, self.kv_dtype)

    def make(self, num_pages: int) -> Backend:
        """The backend with its memory, which is touched as it is used."""
        match self.kind:
            case "native":
                return native.NativeBackend(
                    self.layers,
                    num_pages,
                    PAGE_TOKENS,
                    self.kv_dtype,
                    self.threads,
                    on_torch_threads=self.on_torch_threads,
                )
            case "triton":
                from glinthawk.tier2.backends.triton import (
                    TritonBackend,  # optional, and slow to import
                )

                return TritonBackend(
                    self.layers,
                    num_pages,
                    PAGE_TOKENS,
                    self.kv_dtype,
                    self.device,
                    is_small=self._is_small,
                )
        dtype = getattr(torch, self.kv_dtype)
        return TorchBackend(self.layers, num_pages, PAGE_TOKENS, dtype, self.device)

    def make_on_drives(self, memory_bytes: int, files: Sequence[PageFile]) -> StorageBackend:
        """One with pages in so much memory and in ``files``. Raises WorkerRefused."""
        if self.kind != "native":
            raise WorkerRefused(
                f"KV on drives needs the native backend, and this model gets the {self.kind} one; "
                "start the worker without --storage, or the run without --worker-storage"
            )
        return StorageBackend(
            self.layers, PAGE_TOKENS, self.kv_dtype, memory_bytes, files, self.threads
        )

    @property
    def _fits_native(self) -> bool:
        return self.device.type == "cpu" and all(map(_native_takes, self.layers))

    @property
    def _fits_triton(self) -> bool:
        return (
            self.device.type == "cuda"
            and find_spec("triton") is not None
            and torch.cuda.get_device_capability(self.device) >= _LEAST_CAPABILITY
            and all(map(_triton_takes, self.layers))
            and not (self._is_small and any(map(_is_large, self.layers)))
        )

    @property
    def _is_small(self) -> bool:
        """Whether this is a GPU with 64 KiB of shared memory."""
        is_gpu = self.device.type == "cuda"
        return is_gpu and torch.cuda.get_device_capability(self.device) < _LARGE_CAPABILITY

    def _check_triton(self) -> None:
        """By name it also runs in Triton's interpreter, on a CPU: ``TritonBackend`` looks."""
        if find_spec("triton") is None:
            raise WorkerRefused("there is no Triton here; pip install 'glinthawk[gpu]'")
        if not all(map(_triton_takes, self.layers)):
            raise WorkerRefused(
                f"the triton backend takes head sizes up to {_LARGEST_HEAD} and up to "
                f"{_LARGEST_GROUP} query heads a KV head; use the torch backend"
            )
        if self._is_small and any(map(_is_large, self.layers)):
            raise WorkerRefused(
                "heads of this size, so many a KV head, need more shared memory than this GPU has; "
                "use the torch backend"
            )


def _native_takes(layer: AttentionLayer) -> bool:
    return _triton_takes(layer) and all(
        size % 8 == 0 and size >= _SMALLEST_HEAD for size in (layer.head_dim, layer.value_dim)
    )


def _triton_takes(layer: AttentionLayer) -> bool:
    return (
        layer.num_heads <= _LARGEST_GROUP * layer.num_kv_heads
        and max(layer.head_dim, layer.value_dim) <= _LARGEST_HEAD
    )


def _is_large(layer: AttentionLayer) -> bool:
    """Whether it finds no room in 64 KiB of shared memory."""
    return tile_size(layer) > SMALL_TILE
