"""Attention over X itself, where K and V are linear in it: the projections are applied to a row's
query and to its answer, and no longer to every token.

    q . (W x + b) = (W^T q) . x + q . b        sum_i p_i (W x_i + b) = W (sum_i p_i x_i) + b

The scores of a query head then read X once, as the one KV head that all share (EL-attention, arXiv
2105.04779). It works wherever nothing else, such as a rotation, happens to K on its way.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear

from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.forward.arguments import RowArguments
from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.forward.cut import Arguments, Call
from glinthawk.tier1.xcache.kv_probe import glimpse

__all__ = ["Absorbed", "find_absorbed"]


@dataclass(frozen=True, slots=True)
class _Map:
    """K or V of a token from its X (hidden,)."""

    weight: torch.Tensor  # (K, D, hidden)
    bias: torch.Tensor | None  # (K, D)


@dataclass(frozen=True, slots=True)
class Absorbed:
    """Where K and V are linear in one of a module's arguments, ``argument``."""

    argument: int
    keys: _Map
    values: _Map

    def pays(self, layer: AttentionLayer, rows_per_token: float) -> bool:
        """Whether it is exact, and so many rows a token take less arithmetic than the token's K
        and V do."""
        if layer.softcap is not None:  # bends scores, and the shift with them
            return False
        hidden = self.keys.weight.shape[-1]
        wide = 2 * layer.num_heads * 2 * hidden
        narrow = 2 * layer.num_heads * (layer.head_dim + layer.value_dim)
        return rows_per_token * (wide - narrow) < 2 * hidden * layer.kv_elements

    def layer(self, layer: AttentionLayer) -> AttentionLayer:
        """``layer`` with X as its one KV head."""
        hidden = self.keys.weight.shape[-1]
        return replace(layer, num_kv_heads=1, head_dim=hidden, value_dim=hidden)

    def ask(self, q: torch.Tensor) -> torch.Tensor:
        """Queries (T, H, D) -> queries to X (T, H, hidden)."""
        heads = len(self.keys.weight)
        grouped = q.unflatten(1, (heads, -1)).permute(1, 0, 2, 3)  # (K, T, G, D)
        asked: torch.Tensor = grouped.flatten(1, 2) @ self.keys.weight
        asked = asked.unflatten(1, grouped.shape[1:3])  # (K, T, G, hidden)
        return asked.permute(1, 0, 2, 3).flatten(1, 2)

    def shift(self, q: torch.Tensor, scaling: float) -> torch.Tensor:
        """What all scores of a row lack, and so does its log-sum-exp (T, H)."""
        if self.keys.bias is None:
            return torch.zeros(q.shape[:2], device=q.device)
        grouped = q.float().unflatten(1, (len(self.keys.weight), -1))  # (T, K, G, D)
        scores: torch.Tensor = (grouped * self.keys.bias.float().unsqueeze(1)).sum(-1)
        return scores.flatten(1) * scaling

    def answer(self, mixed: torch.Tensor) -> torch.Tensor:
        """X of a row's tokens, weighted (T, H, hidden) -> the row's output (T, H, Dv)."""
        weight = self.values.weight
        grouped = mixed.to(weight).unflatten(1, (len(weight), -1)).permute(1, 0, 2, 3)
        answer: torch.Tensor = (grouped.flatten(1, 2) @ weight.transpose(1, 2)).float()
        answer = answer.unflatten(1, grouped.shape[1:3])  # (K, T, G, Dv)
        if self.values.bias is not None:
            answer = answer + self.values.bias.float()[:, None, None]
        return answer.permute(1, 0, 2, 3).flatten(1, 2)


def find_absorbed(shadow: nn.Module, rows: RowArguments, call: Call) -> Absorbed | None:
    """What ``shadow``, which gave the ``call``, does to come to K and V; None, if it is more than
    a product each with one and the same argument."""
    assert call.arguments is not None
    arguments = rows.place(rows.pick(call.arguments))
    products = _watch(shadow, arguments)
    for number, tensor in enumerate(rows.find(arguments)):
        some = [product for product in products if product.x.data_ptr() == tensor.data_ptr()]
        keys, values = (_find_map(some, heads[0]) for heads in (call.keys, call.values))
        if keys is not None and values is not None:
            return Absorbed(number, keys, values)
    return None


class _Product(NamedTuple):
    """What a child with a weight made of its input, (1, T, in) -> (1, T, out)."""

    child: nn.Module
    x: torch.Tensor
    y: torch.Tensor


def _watch(module: nn.Module, arguments: Arguments) -> list[_Product]:
    seen: list[_Product] = []

    def note(child: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append(_Product(child, inputs[0], output))

    with ExitStack() as stack:
        for child in module.children():
            if getattr(child, "weight", None) is not None:
                stack.callback(child.register_forward_hook(note).remove)
        glimpse(module, arguments)
    return [product for product in seen if product.x.dim() == product.y.dim() == 3]


def _find_map(products: Sequence[_Product], heads: torch.Tensor) -> _Map | None:
    """The product whose columns, all or some in a row, are ``heads`` (K, T, D) bit for bit."""
    flat = heads.transpose(0, 1).flatten(1)
    width = flat.shape[1]
    for child, x, y in products:
        for first in range(0, y.shape[-1] - width + 1, width):
            columns = slice(first, first + width)
            if torch.equal(y[0, :, columns], flat) and (found := _read(child, x, y)) is not None:
                weight, bias = found
                size = (len(heads), heads.shape[-1])
                return _Map(
                    weight[columns].unflatten(0, size).contiguous(),
                    None if bias is None else bias[columns].unflatten(0, size),
                )
    return None


def _read(
    child: nn.Module, x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight (out, in) and bias of a child that is linear; it is asked which way its weight lies
    and whether there is more to it."""
    weight, bias = child.weight, getattr(child, "bias", None)
    assert isinstance(weight, torch.Tensor)
    for turned in (weight, weight.t()) if weight.dim() == 2 else ():
        if turned.shape == (y.shape[-1], x.shape[-1]) and is_close(linear(x, turned, bias), y):
            return turned.detach(), bias
    return None
