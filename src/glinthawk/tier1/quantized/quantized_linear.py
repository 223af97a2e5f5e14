"""A linear layer whose weight stays as its checkpoint stores it."""

import torch
from torch import nn
from torch.nn import functional as F

from glinthawk.tier1.quantized.quantized_weight import QuantizedWeight
from glinthawk.tier1.quantized.weight_layouts import WeightLayout

__all__ = ["QuantizedLinear"]


class QuantizedLinear(nn.Module):
    """``nn.Linear`` for rows in ``dtype``: each call makes the plain weight and forgets it. Slow,
    and the truth that faster products are compared with.

    Raises ValueError if ``layout`` cannot be that of a layer of this size.
    """

    def __init__(self, linear: nn.Linear, layout: WeightLayout, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._layout, self._dtype = layout, dtype
        self._names: list[str] = []
        device = linear.weight.device
        shapes = layout.shapes(self.out_features, self.in_features, dtype)
        for name, (shape, stored) in shapes.items():
            empty = torch.empty(shape, dtype=stored, device=device)
            # No parameters: a model's own type is that of its first one.
            self.register_buffer(name, empty)
            self._names.append(name)

    def read(self) -> QuantizedWeight:
        """The weight (out, in), in codes."""
        stored = {name: self.get_buffer(name) for name in self._names}
        return self._layout.read(stored, self.in_features)

    def dequantise(self) -> torch.Tensor:
        """The plain weight (out, in)."""
        return self.read().dequantise(self._dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.dequantise().to(x.dtype), self.bias)
