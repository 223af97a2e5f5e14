"""How a model goes through its decoder layers, learned from an empty copy of it.

A slice leaves out layers, and what runs only after them. Which that is, no name tells: a copy whose
layers are markers runs up to the last one, and says what it called on the way.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.cut import IMPLEMENTATION, Departure, Pass

__all__ = ["Outline", "copy_attributes", "find_layers", "hidden_argument", "outline_model"]

_NUM_ROWS = 2


@dataclass(slots=True)
class Outline:
    """What a slice must know of its model."""

    #: Whether the model takes the hidden state out of a tuple that a layer returns.
    returns_tuple: bool = False
    #: Names of the modules outside the layers that run before the last layer ends.
    called: set[str] = field(default_factory=set)


class _Marker(nn.Module):
    """Stands for a layer, and looks at what the model gives it."""

    def __init__(self, layer: nn.Module, index: int, walk: "_Walk") -> None:
        super().__init__()
        copy_attributes(layer, self)
        self._index, self._walk = index, walk

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._walk.visit(self._index, hidden_argument(args, kwargs))


class _Walk:
    def __init__(self, num_layers: int, hidden_size: int) -> None:
        self.outline = Outline()
        self._num_layers = num_layers
        self._shape = (1, _NUM_ROWS, hidden_size)
        self._next = 0

    def visit(self, index: int, hidden: torch.Tensor) -> Any:
        if index != self._next:
            raise UnsupportedModel("it runs its layers in an order of its own")
        self._next += 1
        if index == 1 and tuple(hidden.shape) == self._shape[1:]:
            # The tensor returned by layer 0 was indexed as the tuple that it should have been.
            self.outline.returns_tuple = True
            hidden = hidden.unsqueeze(0)
        if tuple(hidden.shape) != self._shape:
            raise UnsupportedModel(
                f"{_NUM_ROWS} tokens go from layer to layer as {tuple(hidden.shape)}, not "
                f"{self._shape}"
            )
        if self._next == self._num_layers:
            raise Departure(hidden)
        return (hidden,) if self.outline.returns_tuple else hidden


def find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder layers and their name: the one outermost list of as many modules as the
    configuration has layers."""
    num_layers = model.config.get_text_config().num_hidden_layers
    inside = {id(module) for module in model.get_decoder().modules()}
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        is_nested = any(name.startswith(f"{outer}.") for outer in lists)
        is_list = isinstance(module, nn.ModuleList) and len(module) == num_layers
        if is_list and id(module) in inside and not is_nested:
            lists[name] = module
    if len(lists) != 1:
        raise UnsupportedModel(f"it has {len(lists)} lists of {num_layers} modules, not one")
    return lists.popitem()


def outline_model(model: PreTrainedModel) -> Outline:
    """Learn how ``model``, which is on the meta device, runs. It is used up.

    Raises UnsupportedModel when more than one hidden state goes from layer to layer.
    """
    text = model.config.get_text_config()
    path, layers = find_layers(model)
    walk = _Walk(len(layers), text.hidden_size)
    for index, layer in enumerate(layers):
        layers[index] = _Marker(layer, index, walk)
    _note_calls(model, path, walk.outline.called)
    _fill(model)
    own, text._attn_implementation = text._attn_implementation, IMPLEMENTATION
    try:
        rows = torch.arange(_NUM_ROWS)
        Pass(model, rows, rows, rows).resume(None)
    except UnsupportedModel:
        raise
    except Exception as error:
        raise UnsupportedModel(f"its forward fails without its layers: {error}") from error
    finally:
        text._attn_implementation = own
    return walk.outline


def _note_calls(model: PreTrainedModel, layers: str, called: set[str]) -> None:
    def note(name: str) -> Any:
        return lambda _module, _args: called.add(name)

    for name, module in model.named_modules():
        if not f"{name}.".startswith(f"{layers}."):
            module.register_forward_pre_hook(note(name))


def _fill(model: PreTrainedModel) -> None:
    """Memory for what is outside the layers. Weights are never written, so they take none yet."""
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()  # some are indices


def hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden state among a layer's arguments."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, torch.Tensor):
        raise UnsupportedModel("its layers take no hidden state as their first argument")
    return hidden


def copy_attributes(source: nn.Module, target: nn.Module) -> None:
    """Models look at plain attributes of their layers, such as the type of their attention."""
    for name, value in vars(source).items():
        if not name.startswith("_"):
            setattr(target, name, value)
