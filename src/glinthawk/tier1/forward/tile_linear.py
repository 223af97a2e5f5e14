"""Linear layers whose rows come to the same bits, however many run together.

oneDNN chooses another kernel for another number of rows or threads, and with AMX those sum in other
orders. These products have one order (native/src/kernels/product.hpp).
"""

import torch
from torch import nn
from torch.nn import functional as F

from glinthawk import _native
from glinthawk.core.openmp import find_team

__all__ = ["TileLinear", "has_tiles", "pack_weight"]

#: Outputs, and inputs, that a packed weight has a multiple of.
_PANEL = 32
_TILE = 16


def has_tiles() -> bool:
    """Whether this CPU multiplies tiles of bfloat16."""
    return "amx" in _native.supported_isas()


class TileLinear(nn.Module):
    """``nn.Linear`` in bfloat16, for CPUs with AMX. ``emulated`` runs anywhere, slowly."""

    def __init__(self, linear: nn.Linear, emulated: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = pack_weight(linear.weight.detach())
        self.bias = linear.bias
        self._bias = None if self.bias is None else _fill_up(self.bias.detach().float())
        self._emulated = emulated

    @property
    def weight(self) -> torch.Tensor:
        """A plain copy, for models that look at it."""
        plain = self._packed.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)
        return plain[: self.out_features, : self.in_features].contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        rows = _fill_up(x).contiguous()
        output = x.new_empty(*x.shape[:-1], self.out_features)
        _native.multiply_rows(
            output.data_ptr(),
            rows.data_ptr(),
            self._packed.data_ptr(),
            0 if self._bias is None else self._bias.data_ptr(),
            rows.numel() // rows.shape[-1],
            rows.shape[-1],
            self.out_features,
            self._emulated,
            torch.get_num_threads(),
            *find_team(),
        )
        return output


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """(out, in) -> (out / 32, in / 32, 2, 16, 16, 2), filled up with zeros: panels of 32, as
    native/src/kernels/product.hpp has them."""
    weight = F.pad(weight, (0, -weight.shape[1] % _PANEL, 0, -weight.shape[0] % _PANEL))
    panels, steps = weight.shape[0] // _PANEL, weight.shape[1] // _PANEL
    parts = weight.view(panels, 2, _TILE, steps, _TILE, 2)
    return parts.permute(0, 3, 1, 4, 2, 5).contiguous()


def _fill_up(x: torch.Tensor) -> torch.Tensor:
    """Zeros at the end of the last dimension."""
    missing = -x.shape[-1] % _PANEL
    return F.pad(x, (0, missing)) if missing else x
