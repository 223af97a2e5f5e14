"""Rotary position embedding in one pass, instead of the ten that a family's own function takes."""

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.forward.fused_kernels import Kernels

__all__ = ["fuse_rotary"]

_NAME = "apply_rotary_pos_emb"
_Rotate = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fuse_rotary(attention: nn.Module, kernels: Kernels) -> bool:
    """Let ``attention`` call ``kernels.rotate`` instead of its family's function, where both
    compute the same. Only this module changes: it gets a ``forward`` of the same code with one
    other name."""
    own = inspect.unwrap(type(attention).forward)
    if not isinstance(own, FunctionType) or _NAME not in own.__code__.co_names:
        return False
    original = own.__globals__.get(_NAME)
    if original is None or own.__closure__ is not None or "forward" in vars(attention):
        return False

    def rotate_if_usual(
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *rest: Any,
        **kw: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if rest or kw or not _is_usual(q, k, cos, sin, kernels.head_step):
            changed: tuple[torch.Tensor, torch.Tensor] = original(q, k, cos, sin, *rest, **kw)
            return changed
        return kernels.rotate(q, k, cos, sin)

    if not _computes_the_same(original, kernels, _device(attention)):
        return False
    names = {**own.__globals__, _NAME: rotate_if_usual}
    code = FunctionType(own.__code__, names, own.__name__, own.__defaults__)
    code.__kwdefaults__ = own.__kwdefaults__
    attention.forward = MethodType(code, attention)
    return True


def _is_usual(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, step: int
) -> bool:
    """One flattened batch whose whole heads are rotated, in one dtype."""
    shape = (1, q.shape[2], q.shape[3])
    return (
        q.dim() == 4
        and q.shape[0] == 1
        and q.shape[3] % step == 0
        and cos.shape == sin.shape == shape
        and q.dtype == k.dtype == cos.dtype == sin.dtype
    )


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters(), torch.empty(0)).device


def _computes_the_same(original: _Rotate, kernels: Kernels, device: torch.device) -> bool:
    """Some families rotate neighbours instead of halves, or only a part: the function is asked."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(1, 2, 3, 32, generator=generator) for _ in range(3))
    q, k, angles = (tensor.to(device) for tensor in rows)
    cos, sin = angles[:, 0].cos(), angles[:, 1].sin()
    try:
        theirs = original(q, k, cos, sin)
    except Exception:  # takes other arguments: not ours to replace
        return False
    ours = kernels.rotate(q, k, cos, sin)
    return all(is_close(mine, its) for mine, its in zip(ours, theirs, strict=True))
