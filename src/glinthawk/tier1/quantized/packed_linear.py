"""Linear layers with quantised weights, in the form that the kernels multiply from."""

import logging

import torch
from torch import nn

from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.quantized.packed_product import PackedWeight
from glinthawk.tier1.quantized.plain_product import multiply_plainly
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from glinthawk.tier1.quantized.quantized_weight import QuantizedWeight

__all__ = ["PackedQuantizedLinear", "pack_quantized"]

_log = logging.getLogger(__name__)


#: Rows and outputs by which a packed weight is compared with the slow truth.
_ROWS, _OUTPUTS = 3, 64
_TOLERANCE = 1e-3


class PackedQuantizedLinear(nn.Module):
    """A ``QuantizedLinear``'s products without its plain weight. Raises ValueError for a weight
    that kernels do not take, or get wrong."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.read()
        self._weight = PackedWeight.pack(
            weight.codes,
            weight.scales,
            weight.zeros,
            weight.table,
            bits=weight.bits,
            group=weight.group,
        )
        self._order = weight.order
        self.bias = linear.bias
        self._check(weight.head(_OUTPUTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return self._multiply(x, self.bias)

    def _multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows = x if self._order is None else x[..., self._order]
        return self._weight.multiply(rows, bias)

    def _check(self, weight: QuantizedWeight) -> None:
        """Against the first outputs of the plain weight."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(_ROWS, self.in_features, generator=generator)
        own = multiply_plainly(x, weight.dequantise(torch.float32))
        if not is_close(self._multiply(x, None)[:, : own.shape[1]], own, _TOLERANCE):
            raise ValueError("the packed weight gives other products")


def pack_quantized(model: nn.Module) -> int:
    """Replace the quantised layers of ``model``, which is on the CPU, in place, one after the
    other; returns how many. Those that kernels do not take stay as they are, and are slow."""
    found = [name for name, one in model.named_modules() if type(one) is QuantizedLinear]
    count = 0
    for name in found:
        parent, _, own = name.rpartition(".")
        place = model.get_submodule(parent)
        try:
            setattr(place, own, PackedQuantizedLinear(getattr(place, own)))
        except ValueError as error:
            _log.warning("%s stays as it is stored, and is slow: %s", name, error)
            continue
        count += 1
    return count
