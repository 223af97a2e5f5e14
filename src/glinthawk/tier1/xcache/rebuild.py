"""K and V of a token from what its attention was given: the projection again, by the model's code.

What an attention module is given for a token (its layer's hidden state, mostly, and the angles of
the token's position) is enough to compute the token's K and V: the module's own forward does it,
up to its call of attention. Which arguments have rows, and that no row looks at another one, is
learned at load by asking the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from glinthawk.core.errors import UnsupportedModel
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.forward.arguments import RowArguments
from glinthawk.tier1.forward.closeness import is_close
from glinthawk.tier1.forward.cut import Arguments, Call, Pass, note_arguments
from glinthawk.tier1.xcache.absorbed_projection import Absorbed, find_absorbed
from glinthawk.tier1.xcache.kv_probe import glimpse, make_shadow

__all__ = ["Rebuild", "Slot", "learn_rebuild"]

#: Tokens of the passes that are compared.
_FEW, _MANY = 6, 19


class Slot(NamedTuple):
    """One tensor that is kept for each token."""

    shape: torch.Size
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Of one token."""
        return self.shape.numel() * self.dtype.itemsize


@dataclass(slots=True)
class _Layer:
    """One layer's attention module, without what only queries need."""

    module: nn.Module
    arguments: RowArguments
    #: The slot of each argument that has rows.
    slots: list[int] = field(default_factory=list)
    #: Those arguments whose slot no earlier layer has.
    own: list[int] = field(default_factory=list)
    absorbed: Absorbed | None = None


class Rebuild:
    """What is kept of a token, and how its K and V come from that. What several layers are given
    alike, such as the angles of a position, is kept once."""

    def __init__(self, few: Sequence[Call], many: Sequence[Call]) -> None:
        """Learn from the calls of two passes of unlike length. Raises UnsupportedModel."""
        self.slots: list[Slot] = []
        self._layers: list[_Layer] = []
        known: dict[int, int] = {}
        for short, long in zip(few, many, strict=True):
            rows = RowArguments(_given(short), _given(long))
            shadow = make_shadow(long, rows)
            layer = _Layer(shadow, rows, absorbed=find_absorbed(shadow, rows, long))
            self._assign(layer, _given(long), known)
            self._layers.append(layer)
        for calls in (few, many):
            for index, call in enumerate(calls):
                self._check(index, call)

    @property
    def bytes_per_token(self) -> int:
        """Kept of a token, over all layers."""
        return sum(slot.num_bytes for slot in self.slots)

    def slots_of(self, layer: int) -> list[int]:
        """The slots that a layer's K and V are made from."""
        return self._layers[layer].slots

    def absorbed(self, layer: int) -> tuple[int, Absorbed] | None:
        """If K and V are linear in one slot, which one, and how."""
        found = self._layers[layer]
        if found.absorbed is None:
            return None
        return found.slots[found.absorbed.argument], found.absorbed

    def kept(self, layer: int, arguments: Arguments) -> list[tuple[int, torch.Tensor]]:
        """(slot, rows (T, ...)) of what there is to keep when a pass has come to ``layer``."""
        found = self._layers[layer]
        picked = found.arguments.pick(arguments)
        return [(found.slots[index], picked[index]) for index in found.own]

    def __call__(
        self, layer: int, rows: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``rows`` of the layer's slots, each (T, ...) -> keys (K, T, D), values (K, T, Dv)."""
        found = self._layers[layer]
        call = glimpse(found.module, found.arguments.place(rows))
        return call.keys[0], call.values[0]

    def _assign(self, layer: _Layer, given: Arguments, known: dict[int, int]) -> None:
        """A slot for each of a layer's arguments; ``known`` are those of tensors seen before."""
        pairs = zip(layer.arguments.find(given), layer.arguments.pick(given), strict=True)
        for index, (tensor, rows) in enumerate(pairs):
            if id(tensor) not in known:
                known[id(tensor)] = len(self.slots)
                self.slots.append(Slot(rows.shape[1:], rows.dtype))
                layer.own.append(index)
            layer.slots.append(known[id(tensor)])

    def _check(self, layer: int, call: Call) -> None:
        """Every other row of a pass, alone, must come to the K and V that it had there."""
        some = torch.arange(1, call.keys.shape[2], 2, device=call.keys.device)
        rows = self._layers[layer].arguments.pick(_given(call))
        rebuilt = self(layer, [tensor[some] for tensor in rows])
        for ours, own in zip(rebuilt, (call.keys[0], call.values[0]), strict=True):
            if not is_close(ours, own[:, some]):
                raise UnsupportedModel(
                    f"K and V of layer {layer} do not follow from what its attention is given for "
                    "each token"
                )


@torch.inference_mode()
def learn_rebuild(model: PreTrainedModel, spec: ModelSpec) -> Rebuild:
    """For every layer of a model that is loaded. From now on its attention modules tell what they
    are given. Raises UnsupportedModel where K and V cannot be rebuilt."""
    longest = spec.max_model_len
    lengths = [min(length, longest - less) for length, less in ((_FEW, 1), (_MANY, 0))]
    try:
        few, many = (_listen(model, length) for length in lengths)
        return Rebuild(few, many)
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"{spec.name} cannot keep an X-cache: {error}. Run it with --xcache 0."
        ) from error


def _listen(model: PreTrainedModel, num_tokens: int) -> list[Call]:
    """The calls of a pass of so many tokens, the first of which find out who is to be asked."""
    generator = torch.Generator().manual_seed(num_tokens)
    size = model.config.get_text_config().vocab_size
    ids = torch.randint(size, (num_tokens,), generator=generator).to(model.device)
    for module in {call.module for call in _run(model, ids[:1])}:
        if note_arguments not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(note_arguments, with_kwargs=True)
    return _run(model, ids)


def _run(model: PreTrainedModel, ids: torch.Tensor) -> list[Call]:
    """All calls of a pass in which attention is a random number."""
    calls, generator = [], torch.Generator().manual_seed(1)
    forward = Pass(model, ids, torch.arange(len(ids), device=ids.device), ids.new_zeros(1))
    result = forward.resume(None)
    while isinstance(result, Call):
        calls.append(result)
        _, heads, rows, _ = result.queries.shape
        output = torch.randn(rows, heads, result.values.shape[-1], generator=generator)
        result = forward.resume(output.to(result.values))
    return calls


def _given(call: Call) -> Arguments:
    if call.arguments is None:
        raise UnsupportedModel("what its attention modules are given cannot be seen")
    return call.arguments
