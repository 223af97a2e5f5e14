"""Attention of whole prompts, computed on Tier 1 where all their keys and values are at hand."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer

__all__ = ["PromptAttention", "attend_prompt", "attend_prompts", "is_plain", "random_rows"]

#: (q, k, v, lengths, layer) -> output, as ``attend_prompts``.
PromptAttention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Sequence[int], AttentionLayer], torch.Tensor
]

#: Queries whose scores are in memory at once on the plain path: 256 x 32k keys x 32 heads is 1 GiB.
_BLOCK = 256

#: Prompts are padded together while the longest is at most this much longer than the shortest.
_STRETCH = 1.25


def attend_prompts(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int], layer: AttentionLayer
) -> torch.Tensor:
    """Causal attention of several prompts, rows one after the other.

    q (T, H, D), k (T, K, D), v (T, K, Dv) with T = sum(lengths) -> (T, H, Dv). Prompts of similar
    length share a call: they are padded at the end, where the causal mask hides the padding.
    """
    output = v.new_empty(len(q), layer.num_heads, layer.value_dim)
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    for group in _similar(lengths):
        rows = [slice(starts[i], starts[i] + lengths[i]) for i in group]
        if len(group) > 1 and is_plain(max(lengths[i] for i in group), layer):
            _attend_padded(q, k, v, rows, layer, output)
        else:
            for each in rows:
                output[each] = attend_prompt(q[each], k[each], v[each], layer)
    return output


def attend_prompt(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    """Causal attention of one prompt. q (S, H, D), k (S, K, D), v (S, K, Dv) -> (S, H, Dv)."""
    if not is_plain(len(queries), layer):
        return _attend_blocks(queries, keys, values, layer)
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (queries, keys, values))
    return _attend_fused(q, k, v, layer)[0].transpose(0, 1)


def random_rows(
    layer: AttentionLayer, num_rows: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Always the same q (T, H, D), k (T, K, D), v (T, K, Dv), to try attention with."""
    random = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(num_rows, heads, size, generator=random).to(dtype)
        for heads, size in (
            (layer.num_heads, layer.head_dim),
            (layer.num_kv_heads, layer.head_dim),
            (layer.num_kv_heads, layer.value_dim),
        )
    )
    return q, k, v


def is_plain(length: int, layer: AttentionLayer) -> bool:
    """Whether nothing but the causal mask and the scaling matters."""
    reaches_all = layer.window is None or length <= layer.window
    return reaches_all and layer.softcap is None and layer.sinks is None


def _similar(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of prompts, in groups of similar length."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and lengths[index] > _STRETCH * lengths[group[0]]:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _attend_padded(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: list[slice],
    layer: AttentionLayer,
    output: torch.Tensor,
) -> None:
    longest = max(each.stop - each.start for each in rows)
    padded = [
        torch.stack(
            [
                pad(rows_of[each], (0, 0, 0, 0, 0, longest - (each.stop - each.start)))
                for each in rows
            ]
        ).transpose(1, 2)
        for rows_of in (q, k, v)
    ]
    answers = _attend_fused(padded[0], padded[1], padded[2], layer).transpose(1, 2)
    for answer, each in zip(answers, rows, strict=True):
        output[each] = answer[: each.stop - each.start]


def _attend_fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    """q (B, H, S, D), k (B, K, S, D), v (B, K, S, Dv) -> (B, H, S, Dv)."""
    is_grouped = layer.num_heads != layer.num_kv_heads
    return scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=layer.scaling, enable_gqa=is_grouped
    )


def _attend_blocks(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    """The plain path, a block of queries at a time over the keys that it can see."""
    output = values.new_empty(len(queries), layer.num_heads, layer.value_dim)
    for begin in range(0, len(queries), _BLOCK):
        end = min(begin + _BLOCK, len(queries))
        oldest = 0 if layer.window is None else max(0, begin - layer.window + 1)
        block, _ = attend_sequence(queries[begin:end], keys[oldest:end], values[oldest:end], layer)
        output[begin:end] = block.to(output.dtype)
    return output
