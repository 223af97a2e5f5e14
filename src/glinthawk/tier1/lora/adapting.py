"""Adapters become part of a loaded model: beside its layers, or merged into their weights."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from glinthawk.core.errors import ModelError
from glinthawk.core.lora import LoraSource, find_adapter_folder
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.forward.adapted_linear import AdaptedLinear
from glinthawk.tier1.lora.adapter_file import AdapterFile, AdapterPair
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear

__all__ = ["adapt_model"]

#: Pairs of one layer, with the numbers of their adapters.
_Pairs = list[tuple[int, AdapterPair]]


@torch.inference_mode()
def adapt_model(
    model: PreTrainedModel, layers: str, part: LayerSlice, sources: Sequence[LoraSource]
) -> None:
    """Let the rows of ``model`` take the adapters in ``sources``, which count from 1; all rows take
    one without a name. ``layers`` is the name of its list of decoder layers, of which it has those
    in ``part``. Raises ModelError for adapters that are not of this model."""
    pairs: dict[str, _Pairs] = {}
    is_for_all = sources[0].name is None
    for number, source in enumerate(sources, start=1):
        file = AdapterFile(find_adapter_folder(source))
        for name in file.modules:
            own = _own_name(model, layers, name, source)
            if _layer_of(own, layers, part, source) in part:
                pair = file.read(name)
                _check(model, own, pair, source)
                if not is_for_all:  # what is merged is rounded once, behind the sum
                    pair = AdapterPair(*(one.to(model.dtype) for one in pair))
                pairs.setdefault(own, []).append((number, pair))
    owners: dict[tuple[int, ...], torch.Tensor] = {}
    for name, found in pairs.items():
        _adapt(model, name, found, owners, is_for_all)


def _own_name(model: PreTrainedModel, layers: str, name: str, source: LoraSource) -> str:
    """A module's name in ``model``: it may have been trained with another head around it."""
    prefix = f"{model.base_model_prefix}."
    for own in (name, f"{prefix}{name}", name.removeprefix(prefix)):
        if own.startswith(f"{layers}."):
            return own
    raise ModelError(
        f"--lora {source.path} adapts {name}, and only linear layers in {layers} of this model "
        "can be; give an adapter that was trained for it, on those alone"
    )


def _layer_of(name: str, layers: str, part: LayerSlice, source: LoraSource) -> int:
    number, _, _ = name.removeprefix(f"{layers}.").partition(".")
    if not number.isdecimal() or int(number) >= part.num_layers:
        raise _foreign(name, source, f"which has {part.num_layers} layers")
    return int(number)


def _foreign(name: str, source: LoraSource, why: str) -> ModelError:
    return ModelError(
        f"--lora {source.path} was not trained for this model, {why}: {name}; give an adapter that "
        "was"
    )


def _check(model: PreTrainedModel, name: str, pair: AdapterPair, source: LoraSource) -> None:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise _foreign(name, source, "where there is no such layer") from None
    if not isinstance(layer, nn.Linear | QuantizedLinear):
        raise _foreign(name, source, f"where that is no linear layer but {type(layer).__name__}")
    own, theirs = (layer.out_features, layer.in_features), (len(pair.up), pair.down.shape[1])
    if own != theirs:
        raise _foreign(name, source, f"whose weight is {own}, not {theirs}")


def _adapt(
    model: PreTrainedModel,
    name: str,
    pairs: _Pairs,
    owners: dict[tuple[int, ...], torch.Tensor],
    is_for_all: bool,
) -> None:
    layer = model.get_submodule(name)
    if is_for_all and isinstance(layer, nn.Linear):
        (_, pair) = pairs[0]
        merged = layer.weight.float() + (pair.up @ pair.down).to(layer.weight.device)
        layer.weight.copy_(merged)
        return
    down = torch.cat([pair.down for _, pair in pairs]).to(model.device, model.dtype)
    up = torch.cat([pair.up for _, pair in pairs], dim=1).to(model.device, model.dtype)
    ranks = tuple(number for number, pair in pairs for _ in pair.down)
    if ranks not in owners:
        owners[ranks] = torch.tensor(ranks, device=model.device)
    parent, _, own = name.rpartition(".")
    adapted = AdaptedLinear(layer, down, up, None if is_for_all else owners[ranks])
    setattr(model.get_submodule(parent), own, adapted)
