"""Whether two ways to compute the same differ by rounding alone."""

import torch

__all__ = ["distance", "is_close"]

#: Of sums taken in another order.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.02}
_LEAST_NORM = 1e-12


def distance(ours: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Norm of the difference over that of ``own``, two tensors of one shape: a scalar on their
    device, which is not waited for."""
    ours, own = ours.float(), own.float()
    relative: torch.Tensor = (ours - own).norm() / own.norm().clamp(min=_LEAST_NORM)
    return relative


def is_close(ours: torch.Tensor, own: torch.Tensor, tolerance: float | None = None) -> bool:
    """Whether both have one shape and dtype and at most ``tolerance`` between them, by default what
    rounding in their dtype explains. What is not a number is close to nothing."""
    if ours.shape != own.shape or ours.dtype != own.dtype:
        return False
    most = _ROUNDING[own.dtype] if tolerance is None else tolerance
    return bool(distance(ours, own) <= most)
