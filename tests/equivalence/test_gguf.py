"""GGUF files as models: a run == the plain model that the file means."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from families import make_model
from gguf_files import write_gguf
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError
from glinthawk.core.source import identify_model, resolve_model
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier1.model.parameter_count import read_shape
from glinthawk.tier1.quantized.packed_linear import PackedQuantizedLinear
from glinthawk.tokens.generation_defaults import load_eos_token_ids
from glinthawk.tokens.tokenizer import load_tokenizer
from pipeline_nodes import write_cluster
from quantized_runs import LAYOUTS, logprobs, meant, run

_WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 2.0,
    "original_max_position_embeddings": 256,
}

#: Families, what they are made with, types of layers, further metadata and tensors.
_CASES: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "llama": ("llama", {}, {"down_proj": "Q8_0", "lm_head": "Q8_0", "_proj": "Q4_0"}, {}),
    "qwen2, tied": (
        "qwen2",
        {"tie_word_embeddings": True, "rope_parameters": _YARN},
        {"embed_tokens": "Q8_0", "_proj": "Q5_1"},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 2.0,
            "rope.scaling.original_context_length": 256,
        },
    ),
    "qwen3": ("qwen3", {}, {"q_proj": "Q4_1", "": "Q5_0"}, {}),
    "mistral with a window": ("mistral", {}, {"": "F16"}, {"attention.sliding_window": 12}),
    "types of 256": (
        "llama",
        _WIDE,
        {
            "v_proj": "Q6_K",
            "embed_tokens": "Q6_K",
            "o_proj": "BF16",
            "down_proj": "Q5_K",
            "_proj": "Q4_K",
        },
        {},
    ),
}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("llama"), "llama")


def _write(place: Path, case: str) -> Path:
    family, settings, types, fields = _CASES[case]
    return write_gguf(make_model(place, family, **settings), place / "file", types, **fields)


@pytest.mark.parametrize("case", _CASES)
def test_log_probabilities(tmp_path: Path, case: str) -> None:
    file = _write(tmp_path, case)
    far = logprobs(file, "float32") - logprobs(file.parent / "truth", "float32")
    assert far.abs().max() < 2e-4


def test_llama_3_frequencies(tmp_path: Path) -> None:
    """Its settings stand in a tensor of factors: those that transformers comes to."""
    from transformers import AutoModelForCausalLM

    plain = make_model(tmp_path, "llama", rope_parameters=_LLAMA3)
    model = AutoModelForCausalLM.from_pretrained(plain)
    slow = model.model.rotary_emb.inv_freq.numpy()
    factors = 10000.0 ** -(np.arange(0, 16, 2, dtype=np.float32) / 16) / slow
    file = write_gguf(plain, tmp_path / "file", {}, **{"rope_freqs.weight": factors})
    far = logprobs(file, "float32") - logprobs(file.parent / "truth", "float32")
    assert far.abs().max() < 1e-5
    odd = write_gguf(plain, tmp_path / "odd", {}, **{"rope_freqs.weight": factors + 1})
    with pytest.raises(ModelError, match="frequencies are scaled in a way of its own"):
        resolve_model(str(odd))


@pytest.mark.parametrize("layout", ["worker", "hybrid"])
def test_layouts(file: Path, layout: str) -> None:
    config = EngineConfig(model=str(file), dtype="float32", **LAYOUTS[layout])
    assert run(config) == meant(file.parent)


def test_a_pipeline(tmp_path: Path, file: Path) -> None:
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    config = EngineConfig(model=str(file), dtype="float32", cluster=cluster)
    assert run(config) == meant(file.parent)


def test_weights_stay_packed(file: Path) -> None:
    """And the planner knows."""
    model = load_model(EngineConfig(model=str(file))).model
    packed = [one for one in model.modules() if isinstance(one, PackedQuantizedLinear)]
    assert len(packed) == 3 * 7 + 1
    assert model.dtype.itemsize == 2
    assert read_shape(str(file)).layer_bits == 5


def test_a_folder_is_the_file_in_it(tmp_path: Path, file: Path) -> None:
    copy = tmp_path / "one" / "other-name.gguf"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert identify_model(str(copy.parent)) == identify_model(str(file))
    assert resolve_model(str(copy)) != resolve_model(str(file))
    assert load_eos_token_ids(resolve_model(str(copy))) == {2}
    assert load_tokenizer(resolve_model(str(copy))) is None
    (copy.parent / "second.gguf").touch()
    with pytest.raises(ModelError, match="has 2 GGUF files"):
        resolve_model(str(copy.parent))


def test_the_tokenizer(tmp_path: Path) -> None:
    """The demo's, as its own files have it."""
    own = load_tokenizer(resolve_model("demo"))
    assert own is not None
    file = tmp_path / "demo.gguf"
    _write_text(file, own)
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "has_tokenizer": true}')
    (folder / "model.gguf").symlink_to(file)
    read = load_tokenizer(folder)
    assert read is not None
    for text in ("Once upon a time, a cat ate 12 mice.", " <|user|>hello<|end|>\n\tno", "ñ 😀"):
        assert read.encode(text) == own.encode(text)
        assert read.decode(read.encode(text)) == own.decode(own.encode(text))
    talk = [{"role": "user", "content": "hi"}]
    asked = read.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert asked == own.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)


def _write_text(file: Path, tokenizer: Any) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    words = sorted(tokenizer.get_vocab().items(), key=lambda one: one[1])
    special = set(tokenizer.all_special_tokens)
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types([3 if word in special else 1 for word, _ in words])
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _broken(kind: str, tmp_path: Path, file: Path) -> Path:
    if kind == "cut":
        short = tmp_path / "short.gguf"
        short.write_bytes(file.read_bytes()[:5000])
        return short
    return write_gguf(make_model(tmp_path, "llama"), tmp_path / "odd", {}, extra=np.zeros(32, "f"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("cut", "no whole GGUF file"), ("tensor", "tensor extra is not known")],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, file: Path, kind: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        load_model(EngineConfig(model=str(_broken(kind, tmp_path, file))))


@pytest.mark.parametrize(
    ("kind", "parts", "reason"),
    [("gemma3", 1, "its architecture is gemma3"), ("llama", 2, "a model in several files")],
)
def test_other_files_are_refused(tmp_path: Path, kind: str, parts: int, reason: str) -> None:
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, kind)
    writer.add_uint16("split.count", parts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=reason):
        resolve_model(str(file))
