"""What a device computes in one pass of its own where a model takes several operations."""

from typing import Protocol

import torch

__all__ = ["Kernels"]


class Kernels(Protocol):
    """Each computes in float32 and rounds once, to the dtype of what it is given."""

    #: What sizes of heads that are rotated are multiples of.
    head_step: int

    def rms_norm(self, x: torch.Tensor, factor: torch.Tensor, epsilon: float) -> torch.Tensor:
        """x / sqrt(mean(x^2) + epsilon) * factor; x (..., size), factor (size,) in float32."""
        ...

    def rotate(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x * cos + (-x2, x1) * sin, where x1 and x2 are a head's halves.

        q (1, H, T, D) and k (1, K, T, D) as views of (1, T, heads, D); cos, sin (1, T, D).
        """
        ...
