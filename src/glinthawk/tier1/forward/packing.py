"""Linear layers packed once for the CPU's matrix instructions, and gated MLPs in three of them.

oneDNN multiplies fastest from a weight in blocks of its own; a plain ``nn.Linear`` puts it into
that form at every call. These passes replace modules where they match exactly, in any model.
"""

import torch
from torch import nn

from glinthawk.tier1.forward.cpu_kernels import NativeKernels
from glinthawk.tier1.forward.gated import GATED, children, match_gated
from glinthawk.tier1.forward.norms import match_norm
from glinthawk.tier1.forward.rotary import fuse_rotary
from glinthawk.tier1.forward.tile_linear import TileLinear, has_tiles

__all__ = ["GatedMLP", "PackedLinear", "pack_model"]

_ops = torch.ops.mkldnn

#: Activations that oneDNN computes on its way out of a product: its name and algorithm for each.
_EPILOGUES = {
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


class PackedLinear(nn.Module):
    """``nn.Linear`` with its weight (out, in) in oneDNN's form."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = _ops._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:
        """A plain copy, for models that look at it."""
        plain: torch.Tensor = self.packed.to_dense()
        return plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        product: torch.Tensor = _ops._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), where activation and product cost no pass of their own."""

    def __init__(self, mlp: nn.Module, activation: str) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            PackedLinear(getattr(mlp, name)) for name in GATED
        )
        self._activation, self._algorithm = _EPILOGUES[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., hidden) -> (..., hidden)."""
        gate, up = self.gate_proj, self.up_proj
        gated = _ops._linear_pointwise(
            x, gate.packed, gate.bias, self._activation, [], self._algorithm
        )
        product = _ops._linear_pointwise.binary(x, gated, up.packed, up.bias, "mul")
        output: torch.Tensor = self.down_proj(product)
        return output


def pack_model(model: nn.Module, fixed: bool = False) -> int:
    """Replace what can be packed, in place; returns the number of linear layers packed. ``fixed``
    are those whose rows come to the same bits whatever runs beside them, where there are any.

    A packed layer's old weight is freed, so the model grows by tied embeddings at most.
    """
    if not _can_pack(model):
        return 0
    has_fixed = fixed and has_tiles() and _dtype(model) == torch.bfloat16
    packed = TileLinear if has_fixed else PackedLinear
    kernels = NativeKernels()
    count = 0 if has_fixed else _pack_gated(model)
    for parent, name, child in children(model):
        if type(child) is nn.Linear:
            setattr(parent, name, packed(child))
            count += 1
        elif (norm := match_norm(child, kernels)) is not None:
            setattr(parent, name, norm)
        else:
            fuse_rotary(child, kernels)
    return count


def _pack_gated(model: nn.Module) -> int:
    count = 0
    for parent, name, mlp in children(model):
        if (activation := match_gated(mlp)) is not None:
            setattr(parent, name, GatedMLP(mlp, activation))
            count += len(GATED)
    return count


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _can_pack(model: nn.Module) -> bool:
    """float32 stays as it is: its bits would depend on how many rows a pass has."""
    types = {parameter.dtype for parameter in model.parameters()}
    devices = {parameter.device.type for parameter in model.parameters()}
    supported = {
        torch.bfloat16: _ops._is_mkldnn_bf16_supported,
        torch.float16: _ops._is_mkldnn_fp16_supported,
    }
    return devices == {"cpu"} and len(types) == 1 and supported.get(types.pop(), lambda: False)()
