"""Attention of whole prompts by one call of a kernel over packed rows, on a GPU."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

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

__all__ = ["PackedKernel", "PackedPrompts", "agrees", "find_packed_kernels"]

#: q (T, H, D), k and v (T, K, D), first rows of the prompts and the end (N + 1,) int32, the longest
#: prompt, the scaling -> causal attention (T, H, D).
PackedKernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float], torch.Tensor
]

_DTYPES = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256
#: The first GPUs that flash attention is written for; they are the first with bfloat16, too.
_CAPABILITY = (8, 0)
#: ``custom_mask_type``: causal, from the first key and the first query on.
_CAUSAL = 1
_PROBES = (3, 1, 17)


def find_packed_kernels(device: torch.device, dtype: torch.dtype) -> dict[str, PackedKernel]:
    """Ways to attend to packed rows that this torch may have, by name, the best first: its flash
    attention where the GPU and ``dtype`` are among its own, and the memory-efficient one, which
    older GPUs have. None where there is no GPU. Whether one works, ``agrees`` says."""
    if device.type != "cuda" or dtype not in _DTYPES:
        return {}
    ways: dict[str, PackedKernel] = {}
    if torch.cuda.get_device_capability(device) >= _CAPABILITY:
        ways |= _flash_kernels()
    elif dtype != torch.bfloat16:
        ways["torch's memory-efficient attention"] = _attend_efficiently
    return ways


def _flash_kernels() -> dict[str, PackedKernel]:
    ways: dict[str, PackedKernel] = {}
    if _takes_groups():
        ways["torch's varlen_attn"] = _attend_by_name
    ways["torch's flash attention"] = _attend_directly
    ways["torch's flash attention, with K and V a head each"] = _attend_spread
    return ways


def _takes_groups() -> bool:
    """Whether ``varlen_attn`` knows grouped queries; torch's first ones did not."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    names = inspect.signature(varlen_attn).parameters.keys()
    return {"scale", "window_size", "enable_gqa"} <= names


def _attend_by_name(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        q,
        k,
        v,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(output, torch.Tensor)
    return output


def _attend_directly(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float,
) -> torch.Tensor:
    """By the operator behind; its kernel looks at the heads itself."""
    output: torch.Tensor = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        bounds,
        bounds,
        longest,
        longest,
        0.0,  # dropout
        True,  # causal
        False,  # what is for debugging
        scale=scaling,
    )[0]
    return output


def _attend_spread(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float,
) -> torch.Tensor:
    return _attend_directly(q, *_spread(q, k, v), bounds, longest, scaling)


def _attend_efficiently(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float,
) -> torch.Tensor:
    """By the kernel that torch has for GPUs before flash attention's."""
    rows = [each.unsqueeze(0) for each in (q, *_spread(q, k, v))]
    output: torch.Tensor = torch.ops.aten._efficient_attention_forward(
        *rows,
        None,  # bias
        bounds,
        bounds,
        longest,
        longest,
        0.0,  # dropout
        _CAUSAL,
        scale=scaling,
    )[0]
    return output[0]


def _spread(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A head of K and of V for each of q's."""
    group = q.shape[1] // k.shape[1]
    return k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


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
        bounds = _bounds(tuple(lengths), q.device)
        return self._kernel(q, k, v, bounds, max(lengths), layer.scaling)


def _takes(dtype: torch.dtype, layer: AttentionLayer) -> bool:
    """Whether such kernels take such heads."""
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
    except Exception:  # what this build of torch, or this GPU, does not have
        return False


def _agrees_on(
    attend: PromptAttention, layer: AttentionLayer, dtype: torch.dtype, device: torch.device
) -> bool:
    q, k, v = (rows.to(device) for rows in random_rows(layer, sum(_PROBES), dtype))
    ours, plain = (each(q, k, v, _PROBES, layer) for each in (attend, attend_prompts))
    return is_close(ours, plain, 16 * torch.finfo(dtype).eps)
