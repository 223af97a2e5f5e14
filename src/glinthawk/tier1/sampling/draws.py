"""A token for each of many rows, by temperature, top-k, top-p and min-p; plainly:
``sampling_reference.choose``. A row's token depends on its own logits and rules alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.tier1.sampling.row_masks import DeviceMasks, RowMasks
from glinthawk.tier1.sampling.shaping import LogitEdits

__all__ = ["DrawRules", "draw_by_torch", "rows_at_once", "tabulate"]

#: Probabilities that are in memory at once, several times over.
_AT_ONCE = 1 << 24


class DrawRules(NamedTuple):
    """Of one row: its sampling parameters, and its random number in [0, 1). A ``top_k`` of 1 is
    greedy at any temperature."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


def tabulate(rules: list[DrawRules]) -> npt.NDArray[np.float64]:
    """(R, 5), in the order of the fields."""
    return np.array(rules, np.float64).reshape(-1, 5)


def rows_at_once(logits: torch.Tensor) -> int:
    """Rows of ``logits`` (S, V) that may be copied several times over."""
    return max(1, _AT_ONCE // logits.shape[1])


def draw_by_torch(
    logits: torch.Tensor,
    rules: list[DrawRules],
    edits: LogitEdits | None = None,
    masks: RowMasks | None = None,
) -> list[int]:
    """Tokens drawn from each row of ``logits`` (S, V), as ``edits`` change them, of those that
    ``masks`` let come, on their device; -1 for a row without a distribution: with NaN, with +inf,
    or with nothing but -inf."""
    here = None if masks is None else DeviceMasks(masks, logits.device)
    table = torch.from_numpy(tabulate(rules)).to(logits.device)
    some = rows_at_once(logits)
    tokens: list[int] = []
    for first in range(0, len(rules), some):
        part = logits[first : first + some]
        part = part if edits is None else edits.apply(part, first)
        part = part if here is None else here.apply(part, first)
        tokens += _choose(part, table[first : first + some]).tolist()
    return tokens


def _choose(logits: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    best, likeliest = logits.max(dim=-1)
    tokens = torch.where(best.isfinite(), likeliest, -1)
    drawn = (table[:, 1] != 1).logical_and(tokens >= 0).nonzero().flatten()
    if len(drawn):
        tokens[drawn] = _draw(logits[drawn], table[drawn])
    return tokens


def _draw(logits: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    temperature, top_k, top_p, min_p, uniform = table.unbind(1)
    probabilities = torch.softmax(logits.double() / temperature[:, None], dim=-1)
    truncated = ((top_k > 0) | (top_p < 1) | (min_p > 0)).nonzero().flatten()
    if len(truncated):
        probabilities[truncated] = _truncate(probabilities[truncated], table[truncated])
    heights = probabilities.cumsum(-1)
    targets = uniform[:, None] * heights[:, -1:]
    places = torch.searchsorted(heights, targets, right=True).flatten()
    # The product may have been rounded up to the whole height.
    count = torch.arange(1, 1 + logits.shape[1], device=logits.device)
    return torch.minimum(places, ((probabilities > 0) * count).amax(-1) - 1)


def _truncate(probabilities: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(R, V), zeros in place of what top-k, then top-p, then min-p remove."""
    _, top_k, top_p, min_p, _ = table[:, :, None].unbind(1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(ordered.shape[1], device=ordered.device)
    ordered = ordered.where((top_k <= 0) | (ranks < top_k), 0.0)
    before = ordered.cumsum(-1) - ordered
    keep = (top_p >= 1) | (before < top_p * ordered.sum(-1, keepdim=True))
    keep &= ordered >= min_p * ordered[:, :1]
    keep |= ranks == 0
    return torch.zeros_like(probabilities).scatter_(1, order, ordered.where(keep, 0.0))
