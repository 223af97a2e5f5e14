"""A linear layer with LoRA adapters: what they add is computed beside its own product.

The adapters of a layer stand side by side, as one product down to all their ranks and one up from
them. Between the two, each row loses the columns of all adapters but its own. So the shapes do not
depend on which rows have which adapter: passes are recorded as graphs, rows keep their bits, and a
CPU packs both products as any others.
"""

import torch
from torch import nn

from glinthawk.tier1.forward.cut import running_adapters

__all__ = ["AdaptedLinear", "plain_place"]


class AdaptedLinear(nn.Module):
    """``base`` and adapters of S ranks together, ``down`` (S, in) and ``up`` (out, S), which holds
    their scaling. ``owners`` (S,) are the numbers of the adapters; None: all rows take them."""

    def __init__(
        self, base: nn.Module, down: torch.Tensor, up: torch.Tensor, owners: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.base, self.down, self.up = base, _linear(down), _linear(up)
        self.in_features, self.out_features = down.shape[1], up.shape[0]
        self._owners = owners

    @property
    def weight(self) -> torch.Tensor:
        """The base's, for models that look at it."""
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's."""
        bias = self.base.bias
        assert not isinstance(bias, nn.Module)
        return bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., T, in) -> (..., T, out)."""
        output: torch.Tensor = self.base(x)
        if self._owners is None:
            return output.add_(self.up(self.down(x)))
        rows = running_adapters()
        if rows is None:
            return output
        hidden = self.down(x).masked_fill_(rows.foreign(self._owners), 0)
        return output.add_(self.up(hidden))


def plain_place(owner: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Where a layer stands that may have adapters: its module, and the name that it has there."""
    own = getattr(owner, name, None)
    return (own, "base") if isinstance(own, AdaptedLinear) else (owner, name)


def _linear(weight: torch.Tensor) -> nn.Linear:
    """Without a copy of the weight (out, in)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear
