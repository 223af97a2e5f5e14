"""``glinthawk quantize``: a folder that others read too, and that answers."""

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CompressedTensorsConfig,
)
from typer.testing import CliRunner

from families import make_model
from glinthawk.cli.main import app
from glinthawk.core.config import EngineConfig
from glinthawk.core.source import resolve_model
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from glinthawk.tier1.quantized.rounding import SCHEMES
from glinthawk.tier1.quantized.scheme import read_scheme

_TEXT = "A list is a sequence of values. A dictionary maps keys to values. " * 20


def _quantize(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["quantize", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def _read_back(form: str, tensors: dict[str, torch.Tensor], group: int) -> torch.Tensor:
    layout = read_scheme(SCHEMES[form].settings(group, [])).layout("a.b")
    assert layout is not None
    weight = tensors.get("weight", tensors.get("weight_packed"))
    assert weight is not None
    inputs = int(tensors["weight_shape"][1]) if "weight_shape" in tensors else weight.shape[1]
    return layout.read(tensors, inputs).dequantise(torch.float32)


@pytest.mark.parametrize("form", SCHEMES)
@given(
    outputs=st.integers(1, 20),
    groups=st.integers(1, 5),
    scale=st.sampled_from([1e-6, 0.02, 1.0, 300.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_no_weight_is_further_off_than_its_step(
    form: str, outputs: int, groups: int, scale: float, seed: int
) -> None:
    """And of 4 bits, the sum of squares is at most that of rounding to nearest over the range."""
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(outputs, groups * 32, generator=generator)
    back = _read_back(form, SCHEMES[form].round(weight, 32), 32)
    grouped = weight.view(outputs, groups if form == "w4a16" else 1, -1)
    most = 7 if form == "w4a16" else 127
    step = grouped.abs().amax(-1, keepdim=True) / most
    nearest = (grouped / step).round().mul(step).view_as(weight)
    error, plain = (back - weight).square().sum(), (nearest - weight).square().sum()
    assert error <= 1.001 * plain + 1e-20


def test_small_weights_in_float16_use_all_codes() -> None:
    weight = 6e-4 * torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    codes = SCHEMES["w8a8"].round(weight.half(), 32)["weight"]
    assert (codes.abs().amax(1) == 127).all()


def test_zeros_stay_zeros() -> None:
    for form in SCHEMES.values():
        tensors = form.round(torch.zeros(4, 64), 32)
        assert not _read_back(next(k for k, v in SCHEMES.items() if v is form), tensors, 32).any()


def test_inputs_that_matter_are_rounded_with_more_care() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    importance = torch.ones(128)
    importance[::9] = 100.0
    errors = [
        (_read_back("w4a16", SCHEMES["w4a16"].round(weight, 64, one), 64) - weight).square()
        for one in (None, importance)
    ]
    plain, cared = ((error * importance).sum() for error in errors)
    assert cared < plain


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("form", SCHEMES)
def test_others_read_the_same_weights(tmp_path: Path, form: str) -> None:
    source, target = make_model(tmp_path, "llama"), tmp_path / "quantised"
    said = _quantize("-m", str(source), "-o", str(target), "--scheme", form, "--group-size", "32")
    assert "21 layers" in said
    theirs = AutoModelForCausalLM.from_pretrained(
        target, quantization_config=CompressedTensorsConfig(dequantize=True)
    ).state_dict()
    ours = load_model(EngineConfig(model=str(target), dense="plain")).model
    count = 0
    for name, module in ours.named_modules():
        if isinstance(module, QuantizedLinear):
            torch.testing.assert_close(module.dequantise(), theirs[f"{name}.weight"])
            count += 1
    assert count == 21


def test_the_demo_answers_with_few_bits(tmp_path: Path) -> None:
    target, text = tmp_path / "quantised", tmp_path / "text"
    text.write_text(_TEXT)
    said = _quantize(
        *("-m", "demo", "-o", str(target), "--group-size", "64"),
        *("--calibration", str(text), "--perplexity", str(text)),
    )
    before, after = map(float, re.findall(r"perplexity ([\d.]+) -> ([\d.]+)", said)[0])
    assert 1 < before < after < 1.3 * before
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+)(?= ->| bytes)", said)]
    assert sizes[1] < 0.5 * sizes[0]
    lines, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"prompt": "The list type is", "max_tokens": 8, "temperature": 0}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    lines.write_text(json.dumps(line) + "\n")
    result = CliRunner().invoke(
        app, ["run", "-m", str(target), "-i", str(lines), "-o", str(answers)]
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(answers.read_text())["response"]["body"]
    assert answer["choices"][0]["text"]


def test_texts_are_cut_to_the_models_length(tmp_path: Path) -> None:
    source, text = make_model(tmp_path, "llama", max_position_embeddings=32), tmp_path / "text"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((Path(resolve_model("demo")) / name).read_bytes())
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": 4096}))
    grown = load_file(source / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in grown:
            grown[name] = torch.randn(4096, grown[name].shape[1])
    save_file(grown, source / "model.safetensors", metadata={"format": "pt"})
    text.write_text(_TEXT)
    said = _quantize(
        *("-m", str(source), "-o", str(tmp_path / "out"), "--group-size", "32"),
        *("--calibration", str(text), "--perplexity", str(text)),
    )
    assert "perplexity" in said


def test_a_classifier_and_its_pooling(tmp_path: Path) -> None:
    plain = make_model(tmp_path, "qwen3")
    source, target = tmp_path / "classifier", tmp_path / "quantised"
    config = AutoConfig.from_pretrained(plain, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(source)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    _quantize("-m", str(source), "-o", str(target), "--group-size", "32")
    assert load_model(EngineConfig(model=str(target))).head is not None
    assert (target / "1_Pooling" / "config.json").is_file()


def test_a_base_model(tmp_path: Path) -> None:
    plain, source = make_model(tmp_path, "qwen3"), tmp_path / "base"
    AutoModel.from_config(AutoConfig.from_pretrained(plain)).save_pretrained(source)
    _quantize("-m", str(source), "-o", str(tmp_path / "quantised"), "--group-size", "32")
    load_model(EngineConfig(model=str(tmp_path / "quantised")))


def test_a_model_in_several_files(tmp_path: Path) -> None:
    source, target = make_model(tmp_path, "qwen3"), tmp_path / "quantised"
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    (source / "model.safetensors").unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({n: tensors[n] for n in own}, source / file, metadata={"format": "pt"})
    where = {name: file for file, own in parts.items() for name in own}
    index = {"metadata": {}, "weight_map": where}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    _quantize("-m", str(source), "-o", str(target), "--group-size", "32")
    load_model(EngineConfig(model=str(target)))


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("mixtral", "", "experts"),
        ("llama", "quantised", "quantised already"),
        ("llama", "no weights", "no \\*.safetensors files"),
        ("llama", "group", "give a smaller"),
        ("llama", "there", "is there already"),
        ("llama", "not finite", "not finite"),
        ("llama", "odd group", "a multiple of 8"),
        ("gpt2", "", "no linear layers"),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, family: str, change: str, reason: str) -> None:
    source, target = make_model(tmp_path, family), tmp_path / "quantised"
    config = json.loads((source / "config.json").read_text())
    if change == "quantised":
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (source / "config.json").write_text(json.dumps(config))
    if change == "no weights":
        (source / "model.safetensors").unlink()
    if change == "there":
        target.mkdir()
    if change == "not finite":
        tensors = load_file(source / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    group = {"group": "1000", "odd group": "20"}.get(change, "32")
    result = CliRunner().invoke(
        app, ["quantize", "-m", str(source), "-o", str(target), "--group-size", group]
    )
    assert result.exit_code != 0
    said = result.output + str(result.exception or "")
    assert re.search(reason, said), said
    assert target.exists() == (change == "there")
