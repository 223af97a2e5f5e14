"""MXFP4 (gpt-oss): experts whose packed weights stand in a checkpoint as one tensor of all."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from glinthawk.tier1.quantized.quantized_experts import (
    DOWN,
    JOINED,
    ExpertNames,
    QuantizedExperts,
    make_experts,
)
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from glinthawk.tier1.quantized.weight_layouts import WeightLayout

__all__ = ["StackedExperts"]

_NAMES = ExpertNames((JOINED,), DOWN)


class StackedExperts(nn.Module):
    """Takes the tensors while a checkpoint is read: ``down_proj_blocks``, for instance, are the
    ``blocks`` of all experts' ``down_proj``."""

    def __init__(self, path: str, own: Any, layout: WeightLayout, dtype: torch.dtype) -> None:
        super().__init__()

        def make(_: str, linear: nn.Linear) -> QuantizedLinear:
            return QuantizedLinear(linear, layout, dtype)

        self._make = partial(make_experts, path, own, _NAMES, make)
        experts = self._make()
        for layer, name, tensor in _tensors(experts[0]):
            self.register_buffer(f"{layer}_{name}", tensor.new_empty(len(experts), *tensor.shape))

    def split(self) -> QuantizedExperts:
        """Experts with what was read; nothing is copied."""
        experts = self._make()
        for number, expert in enumerate(experts):
            for layer, name, old in list(_tensors(expert)):
                part = self.get_buffer(f"{layer}_{name}")[number]
                is_parameter = isinstance(old, nn.Parameter)
                layers: Any = expert
                setattr(layers[layer], name, nn.Parameter(part, False) if is_parameter else part)
        return experts


def _tensors(expert: Any) -> Iterator[tuple[str, str, torch.Tensor]]:
    for layer, linear in expert.items():
        for name, tensor in (*linear.named_buffers(), *linear.named_parameters()):
            yield layer, name, tensor
