"""A token for each of many rows, by temperature, top-k, top-p and min-p; plainly:
``reference.choose``. A row's token depends on its own logits and rules alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from glinthawk import _native
from glinthawk.core.openmp import find_team

__all__ = ["DrawRules", "draw_by_kernel", "draw_by_torch", "has_kernel"]

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Probabilities that torch has in memory at once, several times over.
_AT_ONCE = 1 << 24


class DrawRules(NamedTuple):
    """Of one row: its sampling parameters, and its random number in [0, 1)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


def has_kernel(logits: torch.Tensor) -> bool:
    """Whether ``draw_by_kernel`` takes these."""
    return logits.device.type == "cpu" and logits.dtype in _KERNEL_DTYPES


def draw_by_kernel(
    logits: torch.Tensor, rows: list[int], rules: list[DrawRules], isa: str = "auto"
) -> list[int]:
    """Tokens drawn from ``rows`` of ``logits`` (S, V) by the kernels of native/src/sampling; -1 for
    a row without a distribution. Raises ValueError if this machine lacks ``isa``."""
    assert max(rows) < len(logits)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    step = logits.stride(0) * logits.itemsize
    addresses = logits.data_ptr() + step * np.asarray(rows, np.int64)
    table, tokens = _table(rules), np.empty(len(rows), np.int64)
    _native.sample_rows(
        tokens.ctypes.data,
        addresses.ctypes.data,
        table.ctypes.data,
        len(rows),
        logits.shape[1],
        str(logits.dtype).removeprefix("torch."),
        isa,
        torch.get_num_threads(),
        *find_team(),
    )
    return tokens.tolist()


def draw_by_torch(logits: torch.Tensor, rules: list[DrawRules]) -> list[int]:
    """Tokens drawn from each row of ``logits`` (R, V), on their device; -1 for a row without a
    distribution."""
    table = torch.from_numpy(_table(rules)).to(logits.device)
    some = max(1, _AT_ONCE // logits.shape[1])
    parts = zip(logits.split(some), table.split(some), strict=True)
    return [token for part in parts for token in _draw(*part).tolist()]


def _table(rules: list[DrawRules]) -> npt.NDArray[np.float64]:
    """(R, 5), in the order of the fields."""
    return np.array(rules, np.float64).reshape(-1, 5)


def _draw(logits: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    temperature, _, _, _, uniform = table[:, :, None].unbind(1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    _, top_k, top_p, min_p, _ = table.unbind(1)
    truncated = ((top_k > 0) | (top_p < 1) | (min_p > 0)).nonzero().flatten()
    if len(truncated):
        probabilities[truncated] = _truncate(probabilities[truncated], table[truncated])
    heights = probabilities.cumsum(-1)
    total = heights[:, -1:]
    places = torch.searchsorted(heights, uniform * total, right=True).flatten()
    # The product may have been rounded up to the whole height.
    last = (probabilities > 0).mul(torch.arange(1, 1 + logits.shape[1], device=logits.device))
    places = torch.minimum(places, last.amax(-1) - 1)
    return torch.where(total.flatten().isnan(), -1, places)


def _truncate(probabilities: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(R, V), zeros in place of what top-k, then top-p, then min-p remove."""
    _, top_k, top_p, min_p, _ = table[:, :, None].unbind(1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(ordered.shape[1], device=ordered.device)
    ordered = ordered.where((top_k <= 0) | (ranks < top_k), 0.0)
    before = ordered.cumsum(-1) - ordered
    keep = (top_p >= 1) | (before < top_p * ordered.sum(-1, keepdim=True))
    keep &= (ordered >= min_p * ordered[:, :1]) | (ranks == 0)
    keep |= ranks == 0
    return torch.zeros_like(probabilities).scatter_(1, order, ordered.where(keep, 0.0))
