"""Attention of whole prompts, computed on Tier 1 where all their keys and values are at hand."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer

__all__ = ["attend_prompt"]

#: Queries whose scores are in memory at once on the plain path: 256 x 32k keys x 32 heads is 1 GiB.
_BLOCK = 256


def attend_prompt(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    """Causal attention of one prompt. q (S, H, D), k (S, K, D), v (S, K, Dv) -> (S, H, Dv)."""
    reaches_all = layer.window is None or len(queries) <= layer.window
    if reaches_all and layer.softcap is None and layer.sinks is None:
        return _attend_fused(queries, keys, values, layer)
    return _attend_blocks(queries, keys, values, layer)


def _attend_fused(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (queries, keys, values))
    output = scaled_dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        scale=layer.scaling,
        enable_gqa=layer.num_heads != layer.num_kv_heads,
    )
    return output[0].transpose(0, 1)


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
