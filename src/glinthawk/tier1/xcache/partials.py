"""Attention of some rows over some keys, with the log-sum-exp by which partial answers merge."""

import torch

from glinthawk.core.spec import AttentionLayer

__all__ = ["Merge", "attend_some"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attend_some(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    layer: AttentionLayer,
) -> tuple[torch.Tensor, torch.Tensor]:
    """q (B, Q, H, D), k (B, K, S, D), v (B, K, S, Dv), ``mask`` (B, Q, S) added to the scores ->
    output (B, Q, H, Dv), log-sum-exp (B, Q, H) in float32. Sinks and windows are the caller's.

    The query heads that meet one KV head are rows like others.
    """
    kv_heads = k.shape[1]
    rows = q.unflatten(2, (kv_heads, -1)).permute(0, 2, 1, 3, 4)  # (B, K, Q, G, D)
    group = rows.shape[3]
    if mask is not None:
        mask = mask.repeat_interleave(group, dim=1).unsqueeze(1)  # (B, 1, QG, S)
    attend = _attend_fused if _is_fusible(q, k, v, layer) else _attend_plain
    output, lse = attend(rows.flatten(2, 3), k, v, mask, layer)
    output = output.unflatten(2, (-1, group)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    return output, lse.unflatten(2, (-1, group)).permute(0, 2, 1, 3).flatten(2, 3)


class Merge:
    """Answers for ``num_rows`` rows, merged as they come."""

    def __init__(self, num_rows: int, layer: AttentionLayer, device: torch.device) -> None:
        self.output = torch.zeros(num_rows, layer.num_heads, layer.value_dim, device=device)
        self.lse = torch.full((num_rows, layer.num_heads), float("-inf"), device=device)

    def add(
        self, rows: torch.Tensor, members: torch.Tensor, output: torch.Tensor, lse: torch.Tensor
    ) -> None:
        """M answers, output (M, H, Dv) and log-sum-exp (M, H), each for the row ``rows[member]`` of
        its one in ``members`` (M,); ``rows`` (U,) has every row once."""
        before = self.lse[rows]
        index = members.unsqueeze(1).expand_as(lse)
        peak = before.scatter_reduce(0, index, lse, "amax")
        weights, kept = torch.exp(lse - peak[members]), torch.exp(before - peak)
        total = kept.index_add(0, members, weights)
        weighted = weights.unsqueeze(-1) * output
        merged = (self.output[rows] * kept.unsqueeze(-1)).index_add(0, members, weighted)
        self.output[rows] = merged / total.unsqueeze(-1)
        self.lse[rows] = peak + torch.log(total)


def _is_fusible(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: AttentionLayer) -> bool:
    """Whether torch's kernel, which tells the log-sum-exp, computes this."""
    is_usual = layer.softcap is None and k.shape[-1] == v.shape[-1]
    return is_usual and q.device.type == "cpu" and q.dtype == k.dtype == v.dtype


def _attend_fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    layer: AttentionLayer,
) -> tuple[torch.Tensor, torch.Tensor]:
    output, lse = _flash(q, k, v, 0.0, False, attn_mask=mask, scale=layer.scaling)
    return output, lse


def _attend_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    layer: AttentionLayer,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = (q.float() @ k.float().transpose(-1, -2)) * layer.scaling
    if layer.softcap is not None:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - lse.unsqueeze(-1)) @ v.float(), lse
