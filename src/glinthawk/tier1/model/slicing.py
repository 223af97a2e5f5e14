"""A pipeline slice: the same model without the layers outside, which are never loaded.

Layers outside the slice are passed through, for models count them. A later slice's first layer is
given the hidden state received from the slice before, whatever the model has made of its own
missing embeddings; an earlier slice's last layer leaves the pass with the hidden state.
"""

from typing import Any

import torch
from greenlet import getcurrent
from torch import nn
from transformers import PreTrainedModel

from glinthawk.core.errors import UnsupportedModel
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.forward.cut import Departure, Pass
from glinthawk.tier1.model.module_trace import (
    Outline,
    copy_attributes,
    find_layers,
    hidden_argument,
)

__all__ = ["join_slice", "leave_out"]


class _LeftOut(nn.Module):
    """In the place of a layer of another slice."""

    def __init__(self, layer: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        copy_attributes(layer, self)
        self._returns_tuple = returns_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden_argument(args, kwargs)
        return (hidden,) if self._returns_tuple else hidden


class _Absent(nn.Module):
    """In the place of what runs after another slice's layers."""

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        raise UnsupportedModel("a slice ran what belongs to the last one")


class _UnknownEmbedding(nn.Module):
    """In the place of the embeddings. A model that uses them for anything but its first layer's
    hidden state computes not-a-numbers, and is refused, instead of something wrong."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._size, self._dtype = size, dtype

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(1, T) -> (1, T, size)."""
        shape = (*input_ids.shape, self._size)
        return torch.full(shape, torch.nan, dtype=self._dtype, device=input_ids.device)


def leave_out(model: PreTrainedModel, part: LayerSlice, outline: Outline) -> None:
    """Take out of ``model``, which is on the meta device, what ``part`` does not need."""
    path, layers = find_layers(model)
    for index, layer in enumerate(layers):
        if index not in part:
            layers[index] = _LeftOut(layer, outline.returns_tuple)
    if not part.is_last:
        _leave_out_end(model, "", path, outline.called)
    if not part.is_first and not (part.is_last and _embedding_is_tied(model)):
        _forget_embedding(model)
    names = dict(model.named_parameters(remove_duplicate=False)).keys()
    tied: dict[str, str] = model.all_tied_weights_keys
    model.all_tied_weights_keys = {a: b for a, b in tied.items() if {a, b} <= names}


def join_slice(model: PreTrainedModel, part: LayerSlice) -> None:
    """Let the loaded ``model`` take hidden states from the slice before, give them to the next."""
    _, layers = find_layers(model)
    if not part.is_first:
        _forget_embedding(model)
        layers[part.first].register_forward_pre_hook(_receive, with_kwargs=True)
    if not part.is_last:
        layers[part.last - 1].register_forward_hook(_depart)


def _leave_out_end(parent: nn.Module, prefix: str, layers: str, called: set[str]) -> None:
    """Replace what is not called before the last layer ends."""
    for name, child in list(parent.named_children()):
        path = f"{prefix}{name}"
        if layers.startswith(f"{path}."):
            _leave_out_end(child, f"{path}.", layers, called)
        elif path != layers and not any(f"{other}.".startswith(f"{path}.") for other in called):
            setattr(parent, name, _Absent())


def _embedding_is_tied(model: PreTrainedModel) -> bool:
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    return any(f"{name}.weight" in pair for pair in model.all_tied_weights_keys.items())


def _forget_embedding(model: PreTrainedModel) -> None:
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, _UnknownEmbedding):
        size, dtype = embedding.weight.shape[-1], embedding.weight.dtype
        model.set_input_embeddings(_UnknownEmbedding(size, dtype))


def _receive(
    _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    current = getcurrent()
    assert isinstance(current, Pass) and current.hidden is not None
    hidden = current.hidden.unsqueeze(0)
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden}


def _depart(_layer: nn.Module, _args: Any, output: Any) -> None:
    hidden, *rest = output if isinstance(output, tuple) else (output,)
    if any(other is not None for other in rest):
        raise UnsupportedModel("more than a hidden state goes from layer to layer")
    raise Departure(hidden[0])
