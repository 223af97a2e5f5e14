"""Layers that take quantised weights as they are stored, in the place of a model's own."""

from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from glinthawk.tier1.quantized.quantized_experts import (
    ExpertNames,
    find_names,
    has_experts,
    make_experts,
)
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from glinthawk.tier1.quantized.scheme import Scheme
from glinthawk.tier1.quantized.stacked_experts import StackedExperts

__all__ = ["replace_layers", "split_stacked"]


def replace_layers(model: PreTrainedModel, scheme: Scheme, dtype: torch.dtype) -> None:
    """In ``model``, which is on the meta device. Raises ValueError for experts, or sizes of layers,
    that the format does not have."""
    names = find_names(get_model_conversion_mapping(model))
    make = partial(_make, scheme, dtype)
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            _put(model, path, make(path, module))
        elif has_experts(module):
            _put(model, path, _make_experts(path, module, names, scheme, dtype))


def split_stacked(model: nn.Module) -> None:
    """Give each expert its part of what all experts' weights were read to."""
    for path, module in list(model.named_modules()):
        if isinstance(module, StackedExperts):
            _put(model, path, module.split())


def _make_experts(
    path: str, own: nn.Module, names: ExpertNames | None, scheme: Scheme, dtype: torch.dtype
) -> nn.Module:
    if scheme.stacks_experts and (layout := scheme.layout(path)) is not None:
        return StackedExperts(path, own, layout, dtype)
    if names is None:
        raise ValueError(
            f"{path} are {type(own).__name__}, which are not read from {scheme.method}; use a "
            "model whose weights are not quantised."
        )
    return make_experts(path, own, names, partial(_make, scheme, dtype))


def _make(scheme: Scheme, dtype: torch.dtype, path: str, linear: nn.Linear) -> nn.Module:
    if (layout := scheme.layout(path)) is None:
        return linear
    try:
        return QuantizedLinear(linear, layout, dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, own = path.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
