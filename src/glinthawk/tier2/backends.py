"""Which backend attends over a cache's pages, and how much memory a page takes there."""

from dataclasses import dataclass

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WorkerRefused
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer
from glinthawk.tier2 import native
from glinthawk.tier2.backend import Backend
from glinthawk.tier2.reference import TorchBackend

__all__ = ["BackendChoice"]

#: What the native kernels take; head sizes are multiples of 8.
_SMALLEST_HEAD, _LARGEST_HEAD, _LARGEST_GROUP = 8, 256, 64


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend by name: ``native`` (C++, CPU), ``torch`` (plain), or ``auto``: native where it
    takes the device and the shapes."""

    layers: tuple[AttentionLayer, ...]
    kv_dtype: str
    device: torch.device
    threads: int = 0
    name: str = "auto"
    on_torch_threads: bool = False

    @property
    def is_native(self) -> bool:
        """Whether the native kernels serve this cache."""
        fits = self.device.type == "cpu" and all(map(_takes, self.layers))
        if self.name == "native" and not fits:
            raise WorkerRefused("the native backend does not take this device or these head sizes")
        return self.name != "torch" and fits

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers."""
        if self.is_native:
            return native.page_bytes(self.layers, PAGE_TOKENS, self.kv_dtype)
        if self.kv_dtype not in DTYPE_BYTES:
            raise WorkerRefused(
                f"KV in {self.kv_dtype} needs the native backend: a CPU, and head sizes that are "
                f"multiples of 8 from {_SMALLEST_HEAD} to {_LARGEST_HEAD}"
            )
        elements = sum(layer.kv_elements for layer in self.layers)
        return PAGE_TOKENS * DTYPE_BYTES[self.kv_dtype] * elements

    def make(self, num_pages: int) -> Backend:
        """The backend with its memory, which is touched as it is used."""
        if self.is_native:
            return native.NativeBackend(
                self.layers,
                num_pages,
                PAGE_TOKENS,
                self.kv_dtype,
                self.threads,
                on_torch_threads=self.on_torch_threads,
            )
        dtype = getattr(torch, self.kv_dtype)
        return TorchBackend(self.layers, num_pages, PAGE_TOKENS, dtype, self.device)


def _takes(layer: AttentionLayer) -> bool:
    sizes = (layer.head_dim, layer.value_dim)
    return layer.num_heads <= _LARGEST_GROUP * layer.num_kv_heads and all(
        size % 8 == 0 and _SMALLEST_HEAD <= size <= _LARGEST_HEAD for size in sizes
    )
