"""Shapes of models: of well-known ones by name, of all others counted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from families import FAMILIES, make_model, make_settings
from glinthawk.core.errors import UsageError
from glinthawk.planner.known_models import known_models, known_shape, same_model, shape_of
from glinthawk.tier1.model.parameter_count import read_shape

#: Parameters as the hub counts them; of the OPT models as their config.json files give them.
PUBLIC = {
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-70B": 68_976_648_192,
    "LLaMA-33B": 32_528_943_616,
    "LLaMA-65B": 65_285_660_672,
    "Llama-3-70B": 70_553_706_496,
    "Llama-3.3-70B": 70_553_706_496,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-1B": 1_235_814_400,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Mixtral-8x7B": 46_702_792_704,
    "OPT-30B": 29_974_540_288,
    "OPT-66B": 65_718_177_792,
    "OPT-175B": 174_604_000_000,
}


@pytest.mark.parametrize("name", known_models())
def test_known_models_have_their_public_size(name: str) -> None:
    assert known_shape(name).weight_bytes / 2 == pytest.approx(PUBLIC[name], rel=0.01)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mixtral", "qwen3_moe", "opt", "gemma2"])
def test_counted_weights_are_all_weights(family: str, tmp_path: Path) -> None:
    settings = make_settings(family)
    settings.save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path), "float32")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    assert shape.weight_bytes == 4 * sum(param.numel() for param in model.parameters())
    assert len(shape.layers) == len(FAMILIES[family].get("layer_types", range(3)))
    assert shape.attention[0].head_dim == 16
    assert shape.attention[0].num_kv_heads == (4 if family == "opt" else 2)


def test_a_token_meets_its_experts_alone(tmp_path: Path) -> None:
    make_settings("mixtral").save_pretrained(tmp_path)
    layer = shape_of(str(tmp_path), "float32").layers[0]
    assert layer.params - layer.active_params == 2 * 3 * 64 * 96  # 2 of 4 experts, 3 matrices each


def test_windows_are_found(tmp_path: Path) -> None:
    make_settings("mistral").save_pretrained(tmp_path)
    assert [one.window for one in shape_of(str(tmp_path), "float32").attention] == [12] * 3


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen2.5-7B", "Mixtral-8x7B"])
def test_a_known_shape_is_what_its_configuration_gives(name: str, tmp_path: Path) -> None:
    known = known_shape(name)
    known = replace(known, layers=known.layers[:2])  # all are alike, and counting takes time
    one = known.attention[0]
    is_llama, is_moe = name.startswith("Llama"), name.startswith("Mixtral")
    config = {
        "model_type": "llama" if is_llama else "mixtral" if is_moe else "qwen2",
        "hidden_size": known.hidden_size,
        "num_hidden_layers": len(known.layers),
        "num_attention_heads": one.num_heads,
        "num_key_value_heads": one.num_kv_heads,
        "intermediate_size": 18944 if name == "Qwen2.5-7B" else 14336,
        "vocab_size": known.head_params // known.hidden_size,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    counted = shape_of(str(tmp_path), "bfloat16")
    assert counted.weight_bytes == pytest.approx(known.weight_bytes, rel=1e-3)
    assert counted.bytes_read(7, 1) == pytest.approx(known.bytes_read(7, 1), rel=1e-3)
    assert counted.kv_bytes_per_token("int8") == known.kv_bytes_per_token("int8")
    assert counted.wire_bytes_out == known.wire_bytes_out


def test_names_of_the_hub_are_known() -> None:
    assert shape_of("meta-llama/Llama-3.3-70B-Instruct").name == "Llama-3.3-70B"
    assert known_shape("llama-2-7b-hf", "float32").dtype == "float32"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Llama-3.3-7B", "Did you mean .*config.json"),
        ("./nothing-here", "has no config.json"),
    ],
)
def test_unknown_names_are_told_what_to_give(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        shape_of(name)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UsageError, match="auto or one of float32"):
        shape_of("Llama-3.1-8B", "int4")


def test_names_of_one_model() -> None:
    assert same_model("meta-llama/Llama-2-70b-hf", "Llama-2-70B")
    assert same_model("/models/mine/", "elsewhere/Mine")
    assert not same_model("Llama-2-70B", "Llama-2-7B")


def test_layers_of_a_quantised_model_take_their_bits(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama")
    plain = read_shape(str(folder))
    path = folder / "config.json"
    stored = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": stored}))
    shape = read_shape(str(folder))
    params = sum(layer.params for layer in shape.layers)
    assert plain.weight_bytes - shape.weight_bytes == round(params * (4 - 4.625 / 8))
    assert plain.bytes_read(1, 0) - shape.bytes_read(1, 0) == params * (4 - 4.625 / 8)
