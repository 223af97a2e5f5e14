"""What a slice holds, and which models cannot be sliced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaModel

import families
from families import FAMILIES, make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UnsupportedModel
from glinthawk.core.slices import LayerSlice, split_layers
from glinthawk.tier1.forward.cut import Pass
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.model.loader import count_layers, load_model
from glinthawk.tier1.model.weights import load_weights

_FIRST, _MIDDLE, _LAST = split_layers(3, 3)


def _load(path: Path, part: LayerSlice | None, **settings: Any) -> torch.nn.Module:
    return load_model(EngineConfig(model=str(path), **settings), part).model


def _outside(model: torch.nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if ".layers." not in name}


def test_a_slice_holds_its_end_of_the_model_alone(tmp_path: Path) -> None:
    path = make_model(tmp_path, "llama")
    assert _outside(_load(path, _FIRST)) == {"model.embed_tokens.weight"}
    assert _outside(_load(path, _MIDDLE)) == set()
    assert _outside(_load(path, _LAST)) == {"model.norm.weight", "lm_head.weight"}


def test_a_tied_head_is_the_embedding_on_the_last_slice(tmp_path: Path) -> None:
    path = make_model(tmp_path, "gemma2")
    embedding = _load(path, _FIRST).get_parameter("model.embed_tokens.weight")
    last = _load(path, _LAST)
    assert _outside(last) == {"model.norm.weight", "lm_head.weight"}
    assert torch.equal(last.get_parameter("lm_head.weight"), embedding)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_a_slices_dummy_weights_are_those_of_the_whole_model(tmp_path: Path, family: str) -> None:
    path = make_model(tmp_path, family)
    (path / "model.safetensors").unlink()
    whole = _load(path, None, load_format="dummy").state_dict()
    names = set()
    for part in split_layers(3, 2):
        for name, weight in _load(path, part, load_format="dummy").state_dict().items():
            names.add(name)
            assert torch.equal(weight, whole[name]), name
    assert names == whole.keys()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_no_dummy_weight_is_what_was_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    own = torch.nn.Module.to_empty

    def to_nan(model: torch.nn.Module, **where: Any) -> torch.nn.Module:
        own(model, **where)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.detach().fill_(torch.nan if tensor.is_floating_point() else 1 << 20)
        return model

    path = make_model(tmp_path, family)
    monkeypatch.setattr(torch.nn.Module, "to_empty", to_nan)
    model = _load(path, None, load_format="dummy")
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.isfinite().all() and tensor.max() < 1 << 20


def test_a_step_of_a_slice_can_be_measured(tmp_path: Path) -> None:
    path = make_model(tmp_path, "llama")
    for part, size in ((_FIRST, 64), (_MIDDLE, 64), (_LAST, 211)):
        loaded = load_model(EngineConfig(model=str(path)), part)
        assert loaded.hidden_size == 64
        step = DensePass(loaded.model, loaded.spec.layers, 5, receives=not part.is_first)
        result = step()
        assert result.shape == (5, size)
        assert result.isfinite().all()


def test_a_slice_of_another_model_is_an_error_with_both_numbers(tmp_path: Path) -> None:
    path = make_model(tmp_path, "llama")
    assert count_layers(EngineConfig(model=str(path))) == 3
    with pytest.raises(ModelError, match="3 layers, not 4"):
        _load(path, LayerSlice(0, 2, 4))


def _answer(path: Path, parts: tuple[LayerSlice, ...]) -> torch.Tensor:
    """Logits of a prompt by way of slices of a model that need not call our attention."""
    ids, hidden = torch.arange(3, 9), None
    for part in parts:
        model, missing = load_weights(str(path), "auto", part)
        assert not missing
        result = Pass(model, ids, torch.arange(6), torch.arange(6), hidden).resume(None)
        assert isinstance(result, torch.Tensor)
        hidden = result
    assert hidden is not None
    return hidden


def test_layers_may_return_tuples(tmp_path: Path) -> None:
    path = make_model(tmp_path, "falcon")
    with torch.inference_mode():
        whole = _answer(path, split_layers(3, 1))
        for num_slices in (2, 3):
            torch.testing.assert_close(_answer(path, split_layers(3, num_slices)), whole)


# What goes from layer to layer must be one hidden state


def _make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, family: str, settings: dict[str, Any]
) -> Path:
    monkeypatch.setitem(families.FAMILIES, family, settings)
    return make_model(folder, family)


_GEMMA = {"layer_types": ["full_attention"] * 3, "vocab_size_per_layer_input": 211}
_STREAMS = {"activation_sparsity_pattern": [0.0] * 3, "altup_num_inputs": 3, "laurel_rank": 4}


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("gemma4_text", {"hidden_size_per_layer_input": 8}, "more than the hidden state"),
        (
            "gemma4_text",
            {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 1},
            "its forward fails",
        ),
        ("gemma3n_text", {**_STREAMS, "hidden_size_per_layer_input": 8}, r"as \(3, 1, 2, 64\)"),
    ],
    ids=["embeddings for every layer", "keys of another slice", "several streams"],
)
def test_layers_that_share_more_are_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    settings: dict[str, Any],
    reason: str,
) -> None:
    shared = {"num_kv_shared_layers": 0, "global_head_dim": 16, **_GEMMA, **settings}
    path = _make(tmp_path, monkeypatch, family, shared)
    with pytest.raises(UnsupportedModel, match=rf"layers 2:3 .*{family}.*{reason}"):
        _load(path, _LAST)


def test_layers_that_run_twice_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = LlamaModel.forward

    def looped(self: LlamaModel, input_ids: torch.Tensor, **options: Any) -> Any:
        options.pop("inputs_embeds", None)
        once = own(self, input_ids=input_ids, **options)
        return own(self, inputs_embeds=once.last_hidden_state, **options)

    path = make_model(tmp_path, "llama")
    monkeypatch.setattr(LlamaModel, "forward", looped)
    assert len(load_model(EngineConfig(model=str(path))).spec.layers) == 6
    with pytest.raises(UnsupportedModel, match=r"1 layers called attention .* 2 times"):
        _load(path, _LAST)


def test_a_second_result_of_a_layer_is_refused(tmp_path: Path) -> None:
    path = make_model(tmp_path, "bloom")  # whose layers return their attention probabilities too
    with pytest.raises(UnsupportedModel, match="more than a hidden state"):
        _answer(path, split_layers(3, 2))
