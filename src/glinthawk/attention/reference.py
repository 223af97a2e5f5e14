"""Attention of one sequence in plain torch: the slow truth."""

import torch

from glinthawk.core.spec import AttentionLayer

__all__ = ["attend_sequence", "merge_partials"]


def attend_sequence(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention of the last Q of S tokens of one sequence, in float32.

    queries (Q, H, D), keys (S, K, D), values (S, K, Dv) -> output (Q, H, Dv), log-sum-exp (Q, H).
    """
    num_queries, num_keys = queries.shape[0], keys.shape[0]
    group = layer.num_heads // layer.num_kv_heads
    # (K, G, Q, D) x (K, 1, S, D): every query head meets the KV head of its group.
    q = queries.float().unflatten(1, (layer.num_kv_heads, group)).permute(1, 2, 0, 3)
    k = keys.float().transpose(0, 1).unsqueeze(1)
    v = values.float().transpose(0, 1).unsqueeze(1)
    scores = (q @ k.transpose(-1, -2)) * layer.scaling  # (K, G, Q, S)
    if layer.softcap is not None:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    scores = scores.masked_fill(_hidden(num_queries, num_keys, layer, q.device), float("-inf"))
    if layer.sinks is not None:
        sinks = torch.tensor(layer.sinks, device=q.device).view(layer.num_kv_heads, group, 1, 1)
        scores = torch.cat([scores, sinks.expand(-1, -1, num_queries, 1)], dim=-1)
    lse = torch.logsumexp(scores, dim=-1)  # (K, G, Q)
    weights = torch.exp(scores - lse.unsqueeze(-1))[..., :num_keys]
    output = (weights @ v).permute(2, 0, 1, 3).flatten(1, 2)
    return output, lse.permute(2, 0, 1).flatten(1, 2)


def merge_partials(
    outputs: torch.Tensor, lses: torch.Tensor, sinks: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over all keys, of P places that each attended to some of them, in float32.

    outputs (P, T, H, Dv), log-sum-exps (P, T, H), sinks (H,), which the places have left out ->
    output (T, H, Dv), log-sum-exp (T, H). A place where a row saw nothing says minus infinity, and
    a finite output.
    """
    scores = lses.float()
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().expand(1, *lses.shape[1:])])
    lse = torch.logsumexp(scores, dim=0)
    weights = torch.exp(lses.float() - lse)
    return (weights.unsqueeze(-1) * outputs.float()).sum(0), lse


def _hidden(
    num_queries: int, num_keys: int, layer: AttentionLayer, device: torch.device
) -> torch.Tensor:
    """(Q, S) true where a query must not look: the future, and what left its window."""
    query = torch.arange(num_keys - num_queries, num_keys, device=device).unsqueeze(1)
    key = torch.arange(num_keys, device=device)
    hidden = key > query
    if layer.window is not None:
        hidden |= key <= query - layer.window
    return hidden
