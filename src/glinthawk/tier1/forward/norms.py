"""Root-mean-square norms in one pass over their rows, instead of the eight that torch takes."""

import torch
from torch import nn

from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.forward.fused_kernels import Kernels

__all__ = ["FusedNorm", "match_norm"]

#: Two ways of rounding to bfloat16 differ by less; two formulas by more.
_TOLERANCE = 0.01


class FusedNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension."""

    def __init__(self, weight: torch.Tensor, epsilon: float, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.variance_epsilon = epsilon
        self._factor = weight.float().contiguous()
        self._kernels = kernels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) -> (..., size), in the dtype of ``x``."""
        return self._kernels.rms_norm(x, self._factor, self.variance_epsilon)


def match_norm(norm: nn.Module, kernels: Kernels) -> FusedNorm | None:
    """A faster module that computes what ``norm`` does; None if it is no such norm.

    Some families multiply with 1 + weight: the module itself is asked.
    """
    weight = getattr(norm, "weight", None)
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not type(norm).__name__.endswith("RMSNorm") or weight is None or epsilon is None:
        return None
    if weight.dim() != 1 or len(weight) % 16:
        return None
    probe = torch.linspace(-2, 3, 3 * len(weight)).view(3, -1).to(weight)
    for factor in (weight, 1 + weight):
        fused = FusedNorm(factor.detach(), float(epsilon), kernels)
        if is_close(fused(probe), norm(probe), _TOLERANCE):
            return fused
    return None
