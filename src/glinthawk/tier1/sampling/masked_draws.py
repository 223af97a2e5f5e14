"""Tokens for rows of which only some may come next."""

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.tier1.sampling.draws import DrawRules, draw_by_torch, rows_at_once
from glinthawk.tier1.sampling.kernels import draw_by_kernel, has_kernel
from glinthawk.tier1.sampling.shaping import LogitEdits

__all__ = ["draw_masked"]


def draw_masked(
    logits: torch.Tensor,
    rows: list[int],
    allowed: npt.NDArray[np.bool_],
    rules: list[DrawRules],
    edits: LogitEdits | None = None,
) -> list[int]:
    """Tokens drawn from ``rows`` of ``logits`` (S, V), as ``edits`` of these R rows change them,
    with -inf for all that ``allowed`` (R, V) excludes. A row that has no distribution then gets
    the lowest token that is allowed: so a ban of all that may come next gives way."""
    some = rows_at_once(logits)
    tokens: list[int] = []
    for first in range(0, len(rows), some):
        here = slice(first, first + some)
        part = _copy(logits, rows[here])
        part = part if edits is None else edits.apply(part, first)
        _exclude(part, ~allowed[here])
        draw = draw_by_kernel if has_kernel(part) else draw_by_torch
        tokens += draw(part, rules[here])
    lowest = allowed.argmax(axis=1).tolist()
    return [low if token < 0 else token for token, low in zip(tokens, lowest, strict=True)]


def _copy(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Some rows in float32. Here and below not by torch, where that would wake its threads."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(logits.numpy()[rows])
    return logits[rows].float()


def _exclude(logits: torch.Tensor, excluded: npt.NDArray[np.bool_]) -> None:
    if logits.device.type == "cpu":
        np.copyto(logits.numpy(), -np.inf, where=excluded)
    else:
        logits.masked_fill_(torch.from_numpy(excluded).to(logits.device), float("-inf"))
