"""Attention of whole prompts by one call of flash attention over packed rows, on a GPU."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch

from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.device.staging import upload
from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.forward.prompt_attention import (
    PromptAttention,
    attend_prompts,
    is_plain,
    random_rows,
)

__all__ = ["PackedKernel", "PackedPrompts", "agrees", "find_packed_kernel"]

#: As ``torch.nn.attention.varlen.varlen_attn``.
PackedKernel = Callable[..., Any]

_DTYPES = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256
#: The first GPUs that flash attention is written for.
_CAPABILITY = (8, 0)
_PROBES = (3, 1, 17)


def find_packed_kernel(device: torch.device) -> PackedKernel | None:
    """torch's kernel, where this torch has one that takes what we say, and the GPU is no older."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters.keys()
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= names else None


class PackedPrompts:
    """A PromptAttention: prompts that only the causal mask concerns take one call of ``kernel``,
    the others go by ``attend_prompts``."""

    def __init__(self, kernel: PackedKernel) -> None:
        self._kernel = kernel

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        lengths: Sequence[int],
        layer: AttentionLayer,
    ) -> torch.Tensor:
        """q (T, H, D), k (T, K, D), v (T, K, Dv) with T = sum(lengths) -> (T, H, Dv)."""
        packed = [_takes(q.dtype, layer) and is_plain(length, layer) for length in lengths]
        if all(packed):
            return self._attend(q, k, v, lengths, layer)
        if not any(packed):
            return attend_prompts(q, k, v, lengths, layer)
        output = v.new_empty(len(q), layer.num_heads, layer.value_dim)
        for attend, chosen in ((self._attend, True), (attend_prompts, False)):
            group = [
                length for length, is_in in zip(lengths, packed, strict=True) if is_in == chosen
            ]
            rows = _rows(lengths, [is_in == chosen for is_in in packed], q.device)
            output[rows] = attend(q[rows], k[rows], v[rows], group, layer)
        return output

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        lengths: Sequence[int],
        layer: AttentionLayer,
    ) -> torch.Tensor:
        bounds, longest = _bounds(tuple(lengths), q.device), max(lengths)
        output: torch.Tensor = self._kernel(
            q,
            k,
            v,
            bounds,
            bounds,
            longest,
            longest,
            scale=layer.scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=layer.num_heads != layer.num_kv_heads,
        )
        return output


def _takes(dtype: torch.dtype, layer: AttentionLayer) -> bool:
    """Whether flash attention takes such heads."""
    size = layer.head_dim
    return dtype in _DTYPES and size == layer.value_dim and size % 8 == 0 and size <= _LARGEST_HEAD


@lru_cache(maxsize=16)  # every layer of a step asks for the same
def _bounds(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """First rows of the prompts, and the end: (N + 1,) int32."""
    return upload([0, *accumulate(lengths)], device).int()


def _rows(lengths: Sequence[int], chosen: Sequence[bool], device: torch.device) -> torch.Tensor:
    """Row numbers of the chosen prompts."""
    numbers: list[int] = []
    start = 0
    for length, is_in in zip(lengths, chosen, strict=True):
        numbers += range(start, start + length) if is_in else ()
        start += length
    return upload(numbers, device)


@torch.inference_mode()
def agrees(
    attend: PromptAttention,
    layers: Sequence[AttentionLayer],
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether ``attend`` runs here, and says what ``attend_prompts`` does, for every layer."""
    try:
        return all(_agrees_on(attend, layer, dtype, device) for layer in dict.fromkeys(layers))
    except RuntimeError:  # what this build of torch, or this GPU, does not have
        return False


def _agrees_on(
    attend: PromptAttention, layer: AttentionLayer, dtype: torch.dtype, device: torch.device
) -> bool:
    q, k, v = (rows.to(device) for rows in random_rows(layer, sum(_PROBES), dtype))
    ours, plain = (each(q, k, v, _PROBES, layer) for each in (attend, attend_prompts))
    return is_close(ours, plain, 16 * torch.finfo(dtype).eps)
