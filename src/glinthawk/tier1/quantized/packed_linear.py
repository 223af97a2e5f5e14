"""Linear layers with quantised weights, in the form that the kernels multiply from."""

import torch
from torch import nn

from glinthawk.tier1.quantized.packed_product import PackedWeight
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear

__all__ = ["PackedQuantizedLinear", "pack_quantized"]


class PackedQuantizedLinear(nn.Module):
    """A ``QuantizedLinear``'s products without its plain weight. Raises ValueError for a weight
    that kernels do not take."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.read()
        self._weight = PackedWeight.pack(
            weight.codes, weight.scales, weight.zeros, bits=weight.bits, group=weight.group
        )
        self._order = weight.order
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        rows = x if self._order is None else x[..., self._order]
        return self._weight.multiply(rows, self.bias)


def pack_quantized(model: nn.Module) -> int:
    """Replace the quantised layers of ``model``, which is on the CPU, in place, one after the
    other; returns how many. Those that kernels do not take stay as they are."""
    found = [name for name, one in model.named_modules() if type(one) is QuantizedLinear]
    count = 0
    for name in found:
        parent, _, own = name.rpartition(".")
        place = model.get_submodule(parent)
        try:
            setattr(place, own, PackedQuantizedLinear(getattr(place, own)))
        except ValueError:
            continue
        count += 1
    return count
