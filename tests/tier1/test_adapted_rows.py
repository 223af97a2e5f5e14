"""Rows with adapters in recorded passes, and beside packed and quantised weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.forward.adapted_linear import AdaptedLinear
from glinthawk.tier1.forward.closeness import distance
from glinthawk.tier1.forward.cut import Call, Forward, Pass, attend_alone
from glinthawk.tier1.forward.graphs import GraphedPasses, ReplayedPass
from glinthawk.tier1.forward.joining import JoinedPart, join_model
from glinthawk.tier1.forward.packing import PackedLinear
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier1.quantized.packed_linear import PackedQuantizedLinear
from lora_adapters import merge_by_hand, write_adapter
from quantized_checkpoints import write_checkpoint
from replay_recorder import TapeRecorder

_ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_IDS = torch.arange(3, 20)
_FORM = "gptq 4"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    one = write_adapter(folder / "one", llama, _ALL, seed=1, rank=3)
    return one, write_adapter(folder / "two", llama, ("q_proj", "up_proj"), seed=2, rank=8)


def _load(model: Path, adapters: tuple[Path, Path], **settings: Any) -> LoadedModel:
    named = tuple(f"{path.name}={path}" for path in adapters)
    return load_model(EngineConfig(model=str(model), lora=named, **settings))


@torch.inference_mode()
def _finish(forward: Forward) -> torch.Tensor:
    result = forward.resume(None)
    while isinstance(result, Call):
        result = forward.resume(attend_alone(result))
    result = result.clone()
    forward.close()
    return result


def _logits(loaded: LoadedModel, numbers: torch.Tensor | None) -> torch.Tensor:
    """Of rows that are sequences of one token each."""
    places, keep = torch.zeros_like(_IDS), torch.arange(len(_IDS))
    return _finish(Pass(loaded.model, _IDS, places, keep, adapters=numbers))


@torch.inference_mode()
def _own_logits(model: Path, adapter: Path | None) -> torch.Tensor:
    logits: torch.Tensor = merge_by_hand(model, adapter)(_IDS.unsqueeze(1)).logits[:, 0]
    return logits


def _truth(model: Path, adapters: tuple[Path, Path], numbers: torch.Tensor) -> torch.Tensor:
    """Each row by the model into which its adapter is merged."""
    by_adapter = torch.stack([_own_logits(model, one) for one in (None, *adapters)])
    return by_adapter[numbers, torch.arange(len(numbers))]


def test_recorded_passes_take_adapters_as_an_input(
    llama: Path, adapters: tuple[Path, Path]
) -> None:
    loaded = _load(llama, adapters)
    recorder = TapeRecorder()
    passes = GraphedPasses(loaded.model, recorder, num_adapters=2)
    for first in range(3):
        numbers = (_IDS + first) % 3
        places, keep = torch.zeros_like(_IDS), torch.arange(len(_IDS))
        forward = passes(_IDS, places, keep, adapters=numbers)
        assert isinstance(forward, ReplayedPass)
        truth = _truth(llama, adapters, numbers)
        torch.testing.assert_close(_finish(forward), truth, atol=1e-3, rtol=1e-3)
    # What an earlier pass had is forgotten.
    plain = _finish(passes(_IDS, places, keep))
    torch.testing.assert_close(plain, _own_logits(llama, None), atol=1e-3, rtol=1e-3)
    assert recorder.num_pools == 1


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU packs no bfloat16"
)
def test_packed_layers(llama: Path, adapters: tuple[Path, Path]) -> None:
    loaded = _load(llama, adapters, dtype="bfloat16")
    layer = loaded.model.model.layers[1].self_attn.q_proj
    assert isinstance(layer, AdaptedLinear)
    assert {type(one) for one in (layer.base, layer.down, layer.up)} == {PackedLinear}
    assert layer.weight.shape == (64, 64)
    numbers = _IDS % 3
    truth = _truth(llama, adapters, numbers)
    assert float(distance(_logits(loaded, numbers), truth)) < 0.03
    assert float(distance(_logits(loaded, None), truth)) > 0.3


def test_joined_layers(llama: Path, adapters: tuple[Path, Path]) -> None:
    """As on a GPU: what adapters add is added to their part of a joined product alone."""
    loaded = _load(llama, adapters, dense="plain")
    join_model(loaded.model)
    layer = loaded.model.model.layers[1].self_attn.q_proj
    assert isinstance(layer, AdaptedLinear) and isinstance(layer.base, JoinedPart)
    for numbers in (_IDS % 3, 0 * _IDS, _IDS % 2):
        truth = _truth(llama, adapters, numbers)
        torch.testing.assert_close(_logits(loaded, numbers), truth, atol=1e-3, rtol=1e-3)


def test_quantised_weights(tmp_path: Path, llama: Path, adapters: tuple[Path, Path]) -> None:
    folder = write_checkpoint(llama, tmp_path / "model", _FORM)
    numbers = _IDS % 3
    loaded = _load(folder, adapters)
    assert isinstance(loaded.model.model.layers[0].mlp.up_proj.base, PackedQuantizedLinear)
    truth = _truth(folder / "truth", adapters, numbers)
    torch.testing.assert_close(_logits(loaded, numbers), truth, atol=1e-3, rtol=1e-3)


def test_an_adapter_for_all_rows_is_merged_or_beside_quantised_weights(
    tmp_path: Path, llama: Path, adapters: tuple[Path, Path]
) -> None:
    folder = write_checkpoint(llama, tmp_path / "model", _FORM)
    for model, plain in ((llama, llama), (folder, folder / "truth")):
        loaded = load_model(EngineConfig(model=str(model), lora=(str(adapters[0]),)))
        assert loaded.num_adapters == 0
        kinds = {type(one) for one in loaded.model.modules()}
        assert (AdaptedLinear in kinds) == (model is folder)
        truth = _own_logits(plain, adapters[0])
        torch.testing.assert_close(_logits(loaded, None), truth, atol=1e-3, rtol=1e-3)
