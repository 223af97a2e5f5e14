"""What a quantised weight stands for, and its product, written plainly: the slow truth."""

import torch

__all__ = ["dequantise", "multiply_plainly"]


def dequantise(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    *,
    bits: int,
    group: int | None = None,
) -> torch.Tensor:
    """(N, K) codes, (N, groups) scales and zeros -> (N, K) in float32.

    (code - zero) * scale, or ``table[code] * scale`` where there is a table. ``packed_product.py``
    says which codes there are and what their zeros are where none are given.
    """
    num_inputs = codes.shape[1]
    group = group or num_inputs // scales.shape[1]
    if table is not None:
        values = table.float()[codes.long()]
    else:
        values = codes.float()
        if zeros is None:
            values = values - (2 ** (bits - 1) if codes.dtype == torch.uint8 else 0)
        else:
            values = values - _spread(zeros, group, num_inputs)
    return values * _spread(scales, group, num_inputs)


def multiply_plainly(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """(..., K) times the transpose of (N, K), in float32 -> (..., N) in the dtype of ``x``."""
    product = x.float() @ weight.T
    return (product if bias is None else product + bias.float()).to(x.dtype)


def _spread(numbers: torch.Tensor, group: int, num_inputs: int) -> torch.Tensor:
    """One for each input; the last group may be shorter."""
    return numbers.float().repeat_interleave(group, dim=1)[:, :num_inputs]
