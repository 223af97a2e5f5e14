"""A linear layer's weight in few bits, whatever checkpoint it comes from."""

from dataclasses import dataclass

import torch

__all__ = ["QuantizedWeight"]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """Weight[o, i] = (codes[o, i] - zeros[o, g]) * scales[o, g], where input i is of group g: K
    inputs are G groups of K/G in a row.

    Where ``order`` is given, columns are not inputs 0, 1, ... but inputs ``order``.
    """

    #: (N, K): uint8 in 0..15 for 4 bits, int8 for 8, or float8.
    codes: torch.Tensor
    bits: int
    #: float32 (N, G).
    scales: torch.Tensor
    #: float32 (N, G); None: nothing is taken away.
    zeros: torch.Tensor | None = None
    #: int64 (K,).
    order: torch.Tensor | None = None

    def dequantise(self, dtype: torch.dtype) -> torch.Tensor:
        """(N, K), with inputs in their own order; computed in float32."""
        rows, groups = self.scales.shape
        codes = self.codes.float().view(rows, groups, -1)
        if self.zeros is not None:
            codes = codes - self.zeros[:, :, None]
        weight = (codes * self.scales[:, :, None]).view(rows, -1)
        if self.order is not None:
            weight = weight[:, torch.argsort(self.order)]
        return weight.to(dtype)
