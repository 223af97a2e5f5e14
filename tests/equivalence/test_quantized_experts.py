"""Experts with quantised weights: a run == the plain model that its checkpoint means."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Mxfp4Config

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier1.quantized.packed_linear import PackedQuantizedLinear
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from mxfp4_checkpoints import write_mxfp4
from pipeline_nodes import write_cluster
from quantized_checkpoints import write_checkpoint
from quantized_runs import LAYOUTS, check_exact, meant, run

_CASES = {
    "mixtral": ["w4a16"],
    "qwen3_moe": ["gptq 4 shuffled", "fp8 blocks"],
    "deepseek_v3": ["w8a8"],
    "gpt_oss": ["mxfp4"],
}
_LAYERS, _EXPERTS = 3, 4


@pytest.fixture(
    scope="module",
    params=[(family, form) for family, forms in _CASES.items() for form in forms],
    ids=lambda case: f"{case[0]} {case[1]}",
)
def folder(tmp_path_factory: pytest.TempPathFactory, request: Any) -> Path:
    return _write(tmp_path_factory.mktemp("experts"), *request.param)


def _write(place: Path, family: str, form: str) -> Path:
    plain = make_model(place, family)
    if form == "mxfp4":
        return write_mxfp4(plain, place / "model")
    return write_checkpoint(plain, place / "model", form)


def test_a_run(folder: Path) -> None:
    assert run(EngineConfig(model=str(folder), tier1_kv="1MiB")) == meant(folder)


def test_log_probabilities(folder: Path) -> None:
    """In float32: a router that rounds asks other experts now and then, in any model."""
    check_exact(folder)


@pytest.mark.parametrize("layout", ["worker", "hybrid"])
def test_every_layout(tmp_path: Path, layout: str) -> None:
    folder = _write(tmp_path, "gpt_oss", "mxfp4")
    assert run(EngineConfig(model=str(folder), **LAYOUTS[layout])) == meant(folder)


@pytest.mark.parametrize(("family", "form"), [("qwen3_moe", "awq"), ("gpt_oss", "mxfp4")])
def test_batch_invariant_runs_and_pipelines(tmp_path: Path, family: str, form: str) -> None:
    folder = _write(tmp_path, family, form)
    same = EngineConfig(model=str(folder), tier1_kv="1MiB", batch_invariant=True)
    sliced = EngineConfig(model=str(folder), cluster=write_cluster(tmp_path, [1, 1], "100KiB"))
    answers = meant(folder)
    assert run(same) == answers
    assert run(sliced) == answers


@pytest.mark.parametrize(("form", "count"), [("awq", 3), ("mxfp4", 2)])
def test_products_are_of_packed_experts(tmp_path: Path, form: str, count: int) -> None:
    """No weight of an expert is a float; slow products and fast ones are the same."""
    folder = _write(tmp_path, "gpt_oss" if form == "mxfp4" else "qwen3_moe", form)
    fast, slow = (
        load_model(EngineConfig(model=str(folder), dense=dense)).model
        for dense in ("auto", "plain")
    )
    compared = 0
    for name, module in slow.named_modules():
        if ".experts." in name and isinstance(module, QuantizedLinear):
            packed = fast.get_submodule(name)
            assert isinstance(packed, PackedQuantizedLinear)
            x = torch.randn(5, module.in_features)
            torch.testing.assert_close(packed(x), module(x), rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == _LAYERS * _EXPERTS * count
    floats = [name for name, one in slow.named_parameters() if "experts" in name and one.dim() > 1]
    assert not floats


def test_mxfp4_means_what_transformers_makes_of_it(tmp_path: Path) -> None:
    folder = _write(tmp_path, "gpt_oss", "mxfp4")
    expanded = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32
    )
    truth = AutoModelForCausalLM.from_pretrained(folder / "truth").state_dict()
    for name, tensor in expanded.state_dict().items():
        torch.testing.assert_close(tensor, truth[name], rtol=0, atol=0)
