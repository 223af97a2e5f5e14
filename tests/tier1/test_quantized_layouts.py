"""What reads a quantised weight finds in it what was written."""

from typing import Any

import pytest
import torch
from torch import nn

from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from glinthawk.tier1.quantized.scheme import read_scheme
from quantized_checkpoints import FORMS, quantise_weight


def _weight(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))


def _layer(form: str, weight: torch.Tensor, name: str = "model.layers.0.mlp.up_proj") -> Any:
    layout = read_scheme(FORMS[form].settings).layout(name)
    assert layout is not None
    outputs, inputs = weight.shape
    layer = QuantizedLinear(nn.Linear(inputs, outputs, bias=False), layout, torch.float32)
    stored = quantise_weight(form, weight)
    assert set(dict(layer.named_buffers())) == set(stored.tensors)
    for end, tensor in stored.tensors.items():
        empty = getattr(layer, end)
        assert (empty.shape, empty.dtype) == (tensor.shape, tensor.dtype), end
        setattr(layer, end, tensor)
    return layer, stored.plain


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 96), (32, 64), (8, 32)])
def test_weights_come_back(form: str, outputs: int, inputs: int) -> None:
    layer, plain = _layer(form, _weight(outputs, inputs))
    torch.testing.assert_close(layer.dequantise(), plain.float(), rtol=1e-6, atol=1e-7)
    x = torch.randn(3, inputs)
    torch.testing.assert_close(layer(x), x @ plain.float().T)


@pytest.mark.parametrize("form", FORMS)
def test_rounding_is_all_that_is_lost(form: str) -> None:
    weight = _weight(64, 96)
    layer, _ = _layer(form, weight)
    step = 1 / 7 if "4" in form or form == "awq" else 1 / 15
    assert (layer.dequantise() - weight).abs().max() < step * weight.abs().max()


def test_which_layers_are_quantised() -> None:
    settings = {**FORMS["w4a16"].settings, "ignore": ["lm_head", "re:.*layers.1..*_proj"]}
    scheme = read_scheme(settings)
    assert scheme.layout("model.layers.0.mlp.up_proj") is not None
    assert scheme.layout("model.layers.1.mlp.up_proj") is None
    assert scheme.layout("lm_head") is None


def test_layers_by_name_come_before_all_layers() -> None:
    settings = dict(FORMS["w4a16"].settings)
    eight = {"targets": ["re:.*down_proj"], "weights": {"num_bits": 8, "strategy": "channel"}}
    settings["config_groups"] = {**settings["config_groups"], "group_1": eight}
    scheme = read_scheme(settings)
    assert scheme.layout("model.layers.0.mlp.down_proj") != scheme.layout("model.layers.0.up_proj")


def test_gptq_may_name_the_layers_in_a_block() -> None:
    listed = [["self_attn.q_proj", "self_attn.k_proj"], ["mlp.up_proj"]]
    scheme = read_scheme({**FORMS["gptq 4"].settings, "modules_in_block_to_quantize": listed})
    assert scheme.layout("model.layers.0.self_attn.q_proj") is not None
    assert scheme.layout("model.layers.0.mlp.down_proj") is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "in bitsandbytes"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "GPTQ with 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:x": {}}}, "rules for single layers"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'"),
        ({**FORMS["w4a16"].settings, "format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized'"),
        (
            {**FORMS["w4a16"].settings, "transform_config": {"config_groups": {}}},
            "transform_config",
        ),
        ({}, "an unnamed format"),
        ({"quant_method": "compressed-tensors"}, "without config_groups"),
        ({"quant_method": "fp8"}, "blocks of None"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"blocks of \[128\]"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "all"}, "groups of all"),
    ],
)
def test_what_cannot_be_read_is_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_scheme(settings)


@pytest.mark.parametrize("form", ["w4a16", "gptq 4", "awq"])
def test_a_layer_that_groups_do_not_fit_is_named(form: str) -> None:
    layout = read_scheme(FORMS[form].settings).layout("up_proj")
    assert layout is not None
    with pytest.raises(ValueError, match="50 inputs"):
        QuantizedLinear(nn.Linear(50, 64), layout, torch.float32)


@pytest.mark.parametrize(
    ("form", "bits"),
    [("w4a16", 4.5), ("w4a16 channels", 4.0), ("gptq 4", 4.625), ("awq", 4.625), ("w8a8", 8.0)],
)
def test_bits_are_those_of_the_stored_tensors(form: str, bits: float) -> None:
    scheme = read_scheme(FORMS[form].settings)
    assert scheme.bits == bits
    stored = quantise_weight(form, _weight(256, 512).half()).tensors
    whole = sum(
        8 * tensor.nbytes
        for end, tensor in stored.items()
        if end not in ("g_idx", "weight_shape", "weight_g_idx")
    )
    per_row = 0.05  # of scales a row, which are not counted
    assert abs(whole / (256 * 512) - bits) < per_row
