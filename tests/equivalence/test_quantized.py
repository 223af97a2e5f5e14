"""The backbone with quantised weights: a run == the plain model that its checkpoint means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier1.quantized.packed_linear import PackedQuantizedLinear
from glinthawk.tier1.quantized.quantized_linear import QuantizedLinear
from pipeline_nodes import write_cluster
from quantized_checkpoints import FORMS, write_checkpoint
from quantized_runs import LAYOUTS, check_log_probabilities, meant, run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("plain"), "llama")


@pytest.mark.parametrize("form", FORMS)
def test_every_form(tmp_path: Path, plain: Path, form: str) -> None:
    folder = write_checkpoint(plain, tmp_path / "model", form)
    assert run(EngineConfig(model=str(folder), tier1_kv="1MiB")) == meant(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path: Path, layout: str) -> None:
    plain = make_model(tmp_path, "qwen3")
    folder = write_checkpoint(plain, tmp_path / "model", "gptq 4 shuffled")
    assert run(EngineConfig(model=str(folder), **LAYOUTS[layout])) == meant(folder)


@pytest.mark.parametrize("form", ["w4a16", "awq", "fp8 blocks"])
def test_over_a_pipeline(tmp_path: Path, plain: Path, form: str) -> None:
    folder = write_checkpoint(plain, tmp_path / "model", form)
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    assert run(EngineConfig(model=str(folder), cluster=cluster)) == meant(folder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_form_in_slices(tmp_path: Path, plain: Path, form: str, dtype: Any) -> None:
    """A slice without embeddings has no parameter but norms: their type is the model's."""
    folder = write_checkpoint(plain, tmp_path / "model", form)
    config = EngineConfig(model=str(folder), dtype=dtype)
    for first in range(3):
        assert load_model(config, LayerSlice(first, first + 1, 3)).spec.dtype == dtype


@pytest.mark.parametrize("form", ["w4a16", "w8a8", "awq", "fp8 blocks"])
def test_log_probabilities(tmp_path: Path, plain: Path, form: str) -> None:
    check_log_probabilities(write_checkpoint(plain, tmp_path / "model", form))


def test_weights_are_kept_as_they_are_stored(tmp_path: Path, plain: Path) -> None:
    folder = write_checkpoint(plain, tmp_path / "model", "w4a16")
    loaded = load_model(EngineConfig(model=str(folder), dense="plain"))
    kept = [one for one in loaded.model.modules() if isinstance(one, QuantizedLinear)]
    assert len(kept) == 3 * 7
    names = [name for name, _ in loaded.model.named_parameters()]
    assert not [name for name in names if name.endswith("_proj.weight")]


@pytest.mark.parametrize(
    ("family", "form", "reason"),
    [
        ("gpt_oss", "w4a16", "GptOssExperts, which are not read from compr"),
        ("llama", "", "bitsandb"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, family: str, form: str, reason: str
) -> None:
    folder = make_model(tmp_path, family)
    settings = FORMS[form].settings if form else {"quant_method": "bitsandbytes"}
    _add_settings(folder, settings)
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(EngineConfig(model=str(folder)))
    assert "not quantised" in str(caught.value)


def test_tensors_that_are_missing_are_named(tmp_path: Path, plain: Path) -> None:
    folder = make_model(tmp_path, "llama")
    _add_settings(folder, FORMS["awq"].settings)
    with pytest.raises(ModelError, match=r"lacks .* weights, .*qweight"):
        load_model(EngineConfig(model=str(folder)))


def _add_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))


@pytest.mark.parametrize("form", ["w4a16", "w8a8", "gptq 4 shuffled", "awq", "fp8 ragged blocks"])
def test_products_are_of_packed_weights(tmp_path: Path, plain: Path, form: str) -> None:
    """And give what the plain ones give."""
    folder = write_checkpoint(plain, tmp_path / "model", form)
    packed, slow = (
        load_model(EngineConfig(model=str(folder), dense=dense)).model
        for dense in ("auto", "plain")
    )
    count = 0
    for name, module in slow.named_modules():
        if isinstance(module, QuantizedLinear):
            fast = packed.get_submodule(name)
            assert isinstance(fast, PackedQuantizedLinear)
            x = torch.randn(5, module.in_features)
            torch.testing.assert_close(fast(x), module(x), rtol=1e-4, atol=1e-5)
            count += 1
    assert count == 21


def test_batch_invariant_runs(tmp_path: Path, plain: Path) -> None:
    folder = write_checkpoint(plain, tmp_path / "model", "awq")
    config = EngineConfig(model=str(folder), tier1_kv="1MiB", batch_invariant=True)
    assert run(config) == meant(folder)
