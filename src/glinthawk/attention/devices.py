"""Where tensors lie."""

import torch

from glinthawk.core.errors import UsageError

__all__ = ["pick_device"]


def pick_device(wish: str) -> torch.device:
    """``cpu``, ``cuda``, or ``auto``: the GPU if there is one. Raises UsageError."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; use --device cpu or auto")
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wish)
