"""Linear layers of one input joined into one product, and what follows them fused, on a GPU.

A GPU is through with a small product before the next one is launched: q, k and v come of one, gate
and up of another. These passes replace modules where they match exactly, in any model.
"""

import logging
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from glinthawk.core.error_text import first_line
from glinthawk.tier1.forward.adapted_linear import plain_place
from glinthawk.tier1.forward.gated import GATED, children, match_gated
from glinthawk.tier1.forward.gpu_kernels import TritonKernels
from glinthawk.tier1.forward.norms import match_norm
from glinthawk.tier1.forward.rotary import fuse_rotary

__all__ = ["JoinedMLP", "JoinedPart", "JoinedProduct", "join_model"]

_log = logging.getLogger(__name__)

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class JoinedProduct(nn.Module):
    """Linear layers' weights, one above the other, and their product with the last input."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = _join([linear.weight for linear in linears])
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.bias = _join(biases) if biases else None
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._num_parts, self._num_left = len(linears), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., all out)."""
        return F.linear(x, self.weight, self.bias)

    def take(self, x: torch.Tensor, rows: slice) -> torch.Tensor:
        """``rows`` of the weight times ``x``. One product serves all parts that are given the same
        tensor, once each; it is kept until the last has it."""
        if x is not self._input or self._output is None:
            self._input, self._output, self._num_left = x, self(x), self._num_parts
        output = self._output
        self._num_left -= 1
        if not self._num_left:
            self._input = self._output = None
        return output[..., rows]


class JoinedPart(nn.Module):
    """One of the linear layers of a joined product: ``rows`` of its weight."""

    def __init__(self, product: JoinedProduct, rows: slice) -> None:
        super().__init__()
        self.product = product
        self._rows = rows

    @property
    def weight(self) -> torch.Tensor:
        """(out, in), a view."""
        return self.product.weight[self._rows]

    @property
    def bias(self) -> torch.Tensor | None:
        """(out,), a view."""
        return None if self.product.bias is None else self.product.bias[self._rows]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return self.product.take(x, self._rows)


class JoinedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) in three launches."""

    def __init__(self, mlp: nn.Module, activation: str, kernels: TritonKernels) -> None:
        super().__init__()
        gate, up, self.down_proj = (getattr(mlp, name) for name in GATED)
        self.product = JoinedProduct([gate, up])
        self._activation, self._kernels = activation, kernels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., hidden) -> (..., hidden)."""
        gated = self._kernels.gate(self.product(x), self._activation)
        output: torch.Tensor = self.down_proj(gated)
        return output


def join_model(model: nn.Module) -> None:
    """Join and fuse what can be, in place. A joined layer's old weight is freed, so the model does
    not grow."""
    kernels = TritonKernels()
    if not _runs(kernels, model):
        return
    for parent, name, child in children(model):
        if (activation := match_gated(child)) is not None:
            setattr(parent, name, JoinedMLP(child, activation, kernels))
        elif (norm := match_norm(child, kernels)) is not None:
            setattr(parent, name, norm)
        else:
            fuse_rotary(child, kernels)
            _join_projections(child)


def _runs(kernels: TritonKernels, model: nn.Module) -> bool:
    """Old GPUs, and machines without a compiler, run no such programs."""
    rows = next(model.parameters()).new_ones(1, 16)
    try:
        kernels.rms_norm(rows, torch.ones(16, device=rows.device), 1e-6)
    except Exception as error:  # whatever a compiler says
        why = first_line(error)
        _log.warning("layers run as transformers has them: triton does not work here (%s)", why)
        return False
    return True


def _join_projections(attention: nn.Module) -> None:
    places = [plain_place(attention, name) for name in _PROJECTIONS]
    linears = [getattr(*place, None) for place in places]
    plain = [linear for linear in linears if type(linear) is nn.Linear]
    if len(plain) < len(linears) or len({_kind(linear) for linear in plain}) > 1:
        return
    product, start = JoinedProduct(plain), 0
    for place, linear in zip(places, plain, strict=True):
        rows = slice(start, start + linear.out_features)
        setattr(*place, JoinedPart(product, rows))
        start = rows.stop


def _kind(linear: nn.Linear) -> tuple[int, bool]:
    return linear.in_features, linear.bias is not None


def _join(tensors: Sequence[torch.Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([tensor.detach() for tensor in tensors]), requires_grad=False)
