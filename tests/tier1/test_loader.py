"""Loading: what cannot be loaded, or not be answered right, is an error that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import families
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UsageError
from glinthawk.tier1.model import loader
from glinthawk.tier1.model.loader import LoadedModel, load_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never changed; see ``copy``."""
    return families.make_model(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A model that a test may break."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def _load(path: object, **settings: Any) -> LoadedModel:
    return load_model(EngineConfig(model=str(path), **settings))


def _change(model: Path, **settings: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_folder_becomes_a_model_and_its_numbers(llama: Path) -> None:
    loaded = _load(llama)
    spec = loaded.spec
    assert (spec.dtype, spec.vocab_size, spec.max_model_len) == ("float32", 211, 512)
    assert len(spec.layers) == 3
    layer = spec.layers[0]
    assert (layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.value_dim) == (4, 2, 16, 16)
    assert layer.scaling == pytest.approx(0.25)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_may_be_chosen(llama: Path, dtype: str) -> None:
    loaded = _load(llama, dtype=dtype)
    assert loaded.spec.dtype == dtype
    assert loaded.model.dtype == getattr(torch, dtype)


def test_the_length_may_be_cut(llama: Path) -> None:
    assert _load(llama, max_model_len=512).spec.max_model_len == 512
    assert _load(llama, max_model_len=40).spec.max_model_len == 40


def test_dummy_weights_need_no_files_and_are_the_same_each_time(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    first, second = (_load(copy, load_format="dummy").model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_length_beyond_the_model_is_an_error_with_both_numbers(llama: Path) -> None:
    with pytest.raises(ModelError, match=r"--max-model-len 513 .* 512 tokens"):
        _load(llama, max_model_len=513)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error_that_offers_the_cpu(llama: Path) -> None:
    with pytest.raises(UsageError, match="--device cpu"):
        _load(llama, device="cuda")


def _no_folder(model: Path) -> None:
    shutil.rmtree(model)


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


def _no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _broken_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def _empty_config(model: Path) -> None:
    (model / "config.json").write_text("{}")


def _half_the_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _another_size(model: Path) -> None:
    _change(model, intermediate_size=97)


def _a_layer_without_weights(model: Path) -> None:
    _change(model, num_hidden_layers=4)


def _double_precision(model: Path) -> None:
    _change(model, dtype="float64", torch_dtype="float64")


@pytest.mark.parametrize(
    "breakage",
    [
        _no_folder,
        _no_config,
        _no_weights,
        _broken_config,
        _empty_config,
        _half_the_weights,
        _another_size,
        _a_layer_without_weights,
        _double_precision,
    ],
)
def test_a_broken_model_is_an_error_that_names_it(
    copy: Path, breakage: Callable[[Path], None]
) -> None:
    breakage(copy)
    with pytest.raises(ModelError, match=str(copy)):
        _load(copy)


@pytest.mark.parametrize(
    "breakage",
    [
        _no_folder,
        _no_config,
        _no_weights,
        _broken_config,
        _empty_config,
    ],
)
def test_a_broken_models_error_says_what_to_give_instead(
    copy: Path, breakage: Callable[[Path], None]
) -> None:
    breakage(copy)
    with pytest.raises(ModelError, match=r"(?i)(give|name) a"):
        _load(copy)


# Length limits that come from what the attention or the rotary embedding depends on

_ROPE = {"rope_theta": 10_000.0}
_LONG = {
    **_ROPE,
    "rope_type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "factor": 8.0,
}
_DYNAMIC = {**_ROPE, "rope_type": "dynamic", "factor": 4.0}
_YARN = {**_ROPE, "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
_GEMMA = ("full_attention", "sliding_attention")
_LLAMA4 = {
    "attention_chunk_size": 32,
    "no_rope_layers": [1, 1, 0],
    "num_local_experts": 4,
    "intermediate_size_mlp": 96,
}


def _make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, family: str, settings: dict[str, Any]
) -> Path:
    monkeypatch.setitem(families.FAMILIES, family, settings)
    return families.make_model(folder, family)


@pytest.mark.parametrize(
    ("family", "settings", "longest"),
    [
        ("llama", {"rope_parameters": _LONG}, 512),
        ("llama", {"rope_parameters": _DYNAMIC}, 2048),
        ("gemma3_text", {"rope_parameters": dict.fromkeys(_GEMMA, _LONG)}, 64),
        ("llama", {"rope_parameters": _YARN}, 512),
        ("llama4_text", _LLAMA4, 32),
    ],
    ids=["longrope", "dynamic", "one for each kind of layer", "yarn", "chunks"],
)
def test_the_length_ends_where_answers_would_depend_on_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    settings: dict[str, Any],
    longest: int,
) -> None:
    model = _make(tmp_path, monkeypatch, family, settings)
    assert _load(model).spec.max_model_len == longest
    with pytest.raises(ModelError, match=f"{longest} tokens"):
        _load(model, max_model_len=longest + 1)


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("gemma3_text", {"rope_parameters": dict.fromkeys(_GEMMA, _LONG)}, "longrope rotary"),
        ("llama4_text", _LLAMA4, "chunk"),
    ],
)
def test_the_reason_for_the_end_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    settings: dict[str, Any],
    reason: str,
) -> None:
    model = _make(tmp_path, monkeypatch, family, settings)
    with pytest.raises(ModelError, match=reason):
        _load(model, max_model_len=100)


def test_windows_of_single_layers_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _make(tmp_path, monkeypatch, "gemma2", families.FAMILIES["gemma2"])
    layers = _load(model).spec.layers
    assert {layer.window for layer in layers} == {None, 12}
    assert all(layer.softcap == 50.0 for layer in layers)


def test_sinks_and_value_sizes_are_found(tmp_path: Path) -> None:
    sinks = _load(families.make_model(tmp_path, "gpt_oss")).spec.layers[0].sinks
    assert sinks is not None
    assert len(set(sinks)) == 4
    layer = _load(families.make_model(tmp_path, "deepseek_v3")).spec.layers[0]
    assert (layer.head_dim, layer.value_dim) == (24, 16)


@pytest.mark.parametrize(
    ("capability", "stored", "wish", "expected"),
    [
        ((7, 5), "bfloat16", "auto", torch.float16),
        ((7, 5), "float32", "auto", "auto"),
        ((7, 5), "bfloat16", "bfloat16", torch.bfloat16),
        ((8, 0), "bfloat16", "auto", "auto"),
    ],
)
def test_bfloat16_on_gpus_that_lack_it(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    stored: str,
    wish: str,
    expected: object,
) -> None:
    _change(copy, dtype=stored)
    asked: list[object] = []

    def load(_source: str, dtype: object, *_: object) -> None:
        asked.append(dtype)
        raise OSError("no GPU is needed beyond this point")

    monkeypatch.setattr(loader, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(loader, "load_weights", load)
    with pytest.raises(ModelError, match="beyond this point"):
        _load(copy, dtype=wish)
    assert asked == [expected]
