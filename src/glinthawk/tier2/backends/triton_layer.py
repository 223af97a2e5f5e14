"""One layer's KV pages in a GPU's memory."""

from typing import Any

import torch

from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.triton_tables import WIDE, Cut

__all__ = ["SMALL_TILE", "TritonLayer", "power_of_two", "tile_size"]

_LEAST_SIZE = 16
#: Numbers of a tile, query rows times a padded head, whose program finds room in the 64 KiB of
#: shared memory that GPUs before compute capability 8.0 have. Others have 99 KiB and more.
SMALL_TILE = 8192


class TritonLayer:
    """One layer's pages, and what its kernels are compiled for; ``is_small``: with 64 KiB of shared
    memory."""

    def __init__(
        self,
        spec: AttentionLayer,
        shape: tuple[int, int],
        kv_dtype: str,
        device: torch.device,
        is_small: bool = False,
    ) -> None:
        self.spec = spec
        num_pages, page_tokens = shape
        tokens = (num_pages, spec.num_kv_heads, page_tokens)
        dtype = getattr(torch, kv_dtype)
        self.keys = torch.empty(*tokens, spec.head_dim, dtype=dtype, device=device)
        self.values = torch.empty(*tokens, spec.value_dim, dtype=dtype, device=device)
        scales = tokens if kv_dtype == "int8" else (0, 0, 0)
        self.key_scales = torch.empty(scales, dtype=torch.bfloat16, device=device)
        self.value_scales = torch.empty(scales, dtype=torch.bfloat16, device=device)
        self.sinks = torch.tensor(spec.sinks or (), dtype=torch.float32, device=device)
        group = spec.num_heads // spec.num_kv_heads
        wide = min(WIDE, SMALL_TILE // _padded_head(spec)) if is_small else WIDE
        self.cut = Cut(group, spec.window, wide)
        self.sizes: dict[str, Any] = {
            "KV_HEADS": spec.num_kv_heads,
            "VALUE_SIZE": spec.value_dim,
            "VALUE_PADDED": _pad_size(spec.value_dim),
        }
        self.page_sizes: dict[str, Any] = {
            "PAGE": page_tokens,
            "KEY_SIZE": spec.head_dim,
            "KEY_PADDED": _pad_size(spec.head_dim),
            "INT8": kv_dtype == "int8",
        }

    @property
    def pools(self) -> tuple[torch.Tensor, ...]:
        """All memory whose first dimension is the page."""
        pools = (self.keys, self.values, self.key_scales, self.value_scales)
        return pools if self.keys.dtype == torch.int8 else pools[:2]

    @property
    def memory(self) -> tuple[torch.Tensor, ...]:
        """As the kernels take it."""
        return (self.keys, self.values, self.key_scales, self.value_scales)


def power_of_two(size: int) -> int:
    """The next one."""
    return 1 << (size - 1).bit_length()


def tile_size(spec: AttentionLayer) -> int:
    """Numbers of the smallest tile that ``spec`` can be attended by."""
    narrow, _ = Cut(spec.num_heads // spec.num_kv_heads, spec.window).rows
    return narrow * _padded_head(spec)


def _padded_head(spec: AttentionLayer) -> int:
    return _pad_size(max(spec.head_dim, spec.value_dim))


def _pad_size(size: int) -> int:
    """A head's size as matrix products take it."""
    return max(_LEAST_SIZE, power_of_two(size))
