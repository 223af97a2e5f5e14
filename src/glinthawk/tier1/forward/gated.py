"""Gated MLPs, known by what they compute; and a walk over a model's modules."""

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from glinthawk.tier1.forward.closeness import is_close

__all__ = ["GATED", "children", "match_gated"]

#: Its layers: down(activation(gate(x)) * up(x)).
GATED = ("gate_proj", "up_proj", "down_proj")

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every module with its parent and the name that it has there, as they are at the beginning:
    any may be replaced meanwhile, and is kept no longer than till the next one comes."""
    found = deque((parent, *one) for parent in model.modules() for one in parent.named_children())
    while found:
        yield found.popleft()


def match_gated(mlp: nn.Module) -> str | None:
    """A gated MLP's activation: silu, gelu, gelu_tanh or relu; None for any other module.

    Whether the module is one is asked of the module: it must compute the same.
    """
    activation = getattr(mlp, "act_fn", None)
    if not callable(activation) or not all(
        type(getattr(mlp, name, None)) is nn.Linear for name in GATED
    ):
        return None
    for name, function in _ACTIVATIONS.items():
        if _computes(activation, function) and _is_gated(mlp, function):
            return name
    return None


def _computes(
    activation: Callable[[torch.Tensor], torch.Tensor],
    function: Callable[[torch.Tensor], torch.Tensor],
) -> bool:
    probe = torch.linspace(-6, 6, 97)
    return is_close(activation(probe), function(probe))


def _is_gated(mlp: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    gate, up, down = (getattr(mlp, name) for name in GATED)
    x = torch.linspace(-1, 1, gate.in_features).to(gate.weight).view(1, 1, -1)
    expected = down(function(gate(x)) * up(x))
    return bool(torch.equal(mlp(x), expected))
