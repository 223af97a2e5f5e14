"""An attention module run for its K and V alone."""

import copy
from collections import OrderedDict
from functools import partial
from types import MethodType

import torch
from torch import nn

from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.arguments import RowArguments
from glinthawk.tier1.forward.cut import Arguments, Call, Suspension

__all__ = ["glimpse", "make_shadow"]


class _Zeros(nn.Module):
    """In the place of a linear layer whose result does not matter."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), without memory of its own."""
        return x.new_zeros(1).expand(*x.shape[:-1], self.out_features)


def glimpse(module: nn.Module, arguments: Arguments) -> Call:
    """What ``module`` calls attention with; it does not go on from there."""
    args, kwargs = arguments
    run = Suspension(partial(module, *args, **kwargs))
    try:
        call = run.switch()
    finally:
        run.close()
    if not isinstance(call, Call):
        raise UnsupportedModel("its attention module ends without attention")
    return call


def make_shadow(call: Call, rows: RowArguments) -> nn.Module:
    """The module of a ``call``, over the same weights, without the linear layers that its K and V
    do not need. Each is asked: in the place of those, zeros change nothing.

    Raises UnsupportedModel where the module does not give K and V of the call again.
    """
    assert call.arguments is not None
    shadow = _copy(call.module)
    arguments = rows.place(rows.pick(call.arguments))
    for name, child in list(shadow._modules.items()):
        if isinstance(size := getattr(child, "out_features", None), int):
            shadow._modules[name] = _Zeros(size)
            if not _gives(shadow, arguments, call):
                shadow._modules[name] = child
    return shadow


def _copy(module: nn.Module) -> nn.Module:
    """Another module with the same children, whose hooks are not ours, and whose ``forward``, if it
    was given one (see ``rotary.py``), is its own."""
    shadow = copy.copy(module)
    shadow._modules = dict(module._modules)
    shadow._forward_pre_hooks = OrderedDict()
    shadow._forward_pre_hooks_with_kwargs = OrderedDict()
    own = vars(module).get("forward")
    if isinstance(own, MethodType) and own.__self__ is module:
        shadow.forward = MethodType(own.__func__, shadow)
    return shadow


def _gives(shadow: nn.Module, arguments: Arguments, call: Call) -> bool:
    """Whether K and V are those of ``call``, bit for bit: nothing else has changed."""
    try:
        again = glimpse(shadow, arguments)
    except Exception:  # it does more with the zeros than they can stand
        return False
    return torch.equal(again.keys, call.keys) and torch.equal(again.values, call.values)
