"""A linear layer's weight in few bits, whatever checkpoint it comes from."""

from dataclasses import dataclass, replace

import torch

from glinthawk.tier1.quantized.plain_product import dequantise

__all__ = ["QuantizedWeight"]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """Weight[o, i] = (codes[o, i] - zeros[o, g]) * scales[o, g], where input i is of group g, or
    table[codes[o, i]] * scales[o, g].

    Where ``order`` is given, columns are not inputs 0, 1, ... but inputs ``order``.
    """

    #: (N, K): uint8 in 0..15 for 4 bits, int8 for 8, or float8.
    codes: torch.Tensor
    bits: int
    #: Inputs of a group; of the last one there may be fewer.
    group: int
    #: float32 (N, G).
    scales: torch.Tensor
    #: float32 (N, G); None: 8 for 4 bits, else 0.
    zeros: torch.Tensor | None = None
    #: int64 (K,).
    order: torch.Tensor | None = None
    #: float32 (16,), what codes of 4 bits stand for.
    table: torch.Tensor | None = None

    def head(self, outputs: int) -> "QuantizedWeight":
        """The first ``outputs`` of it."""
        zeros = None if self.zeros is None else self.zeros[:outputs]
        return replace(self, codes=self.codes[:outputs], scales=self.scales[:outputs], zeros=zeros)

    def dequantise(self, dtype: torch.dtype) -> torch.Tensor:
        """(N, K), with inputs in their own order; computed in float32."""
        weight = dequantise(
            self.codes, self.scales, self.zeros, self.table, bits=self.bits, group=self.group
        )
        if self.order is not None:
            weight = weight[:, torch.argsort(self.order)]
        return weight.to(dtype)
