"""Root-mean-square norms in one pass over their rows, instead of the eight that torch takes."""

import torch
from torch import nn

from glinthawk import _native
from glinthawk.core.openmp import find_team
from glinthawk.tier1.forward.closeness import is_close

__all__ = ["FusedNorm", "match_norm"]

#: Two ways of rounding to bfloat16 differ by less; two formulas by more.
_TOLERANCE = 0.01


class FusedNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.variance_epsilon = epsilon
        self._factor = weight.float().contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) -> (..., size), in the dtype of ``x``."""
        x = x.contiguous()
        output, size = torch.empty_like(x), x.shape[-1]
        _native.rms_norm(
            output.data_ptr(),
            x.data_ptr(),
            self._factor.data_ptr(),
            x.numel() // size,
            size,
            self.variance_epsilon,
            str(x.dtype).removeprefix("torch."),
            torch.get_num_threads(),
            *find_team(),
        )
        return output


def match_norm(norm: nn.Module) -> FusedNorm | None:
    """A faster module that computes what ``norm`` does; None if it is no such norm.

    Some families multiply with 1 + weight: the module itself is asked.
    """
    weight = getattr(norm, "weight", None)
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not type(norm).__name__.endswith("RMSNorm") or weight is None or epsilon is None:
        return None
    if weight.dim() != 1 or len(weight) % 16:
        return None
    probe = torch.linspace(-2, 3, 3 * len(weight)).view(3, -1).to(weight.dtype)
    for factor in (weight, 1 + weight):
        fused = FusedNorm(factor.detach(), float(epsilon))
        if is_close(fused(probe), norm(probe), _TOLERANCE):
            return fused
    return None
