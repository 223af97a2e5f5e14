"""Shapes counted without memory, against models that have some."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from families import FAMILIES, make_settings
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.model.discovery import discover
from glinthawk.tier1.model.parameter_count import count_shape


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_counted_as_it_is(family: str) -> None:
    config = make_settings(family)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    shape = count_shape(empty, family, "float32")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert shape.weight_bytes == 4 * sum(param.numel() for param in model.parameters())
    with torch.inference_mode():
        found = discover(model, LayerSlice(0, 3, 3)).layers
    for counted, real in zip(shape.attention, found, strict=True):
        assert counted.kv_elements == real.kv_elements
        assert counted.wire_elements == real.wire_elements
        assert (counted.window, counted.scaling) == (real.window, real.scaling)
