"""Adapters as PEFT writes them; what is not applied is refused by name, before anything runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UsageError
from glinthawk.core.lora import LoraSource, identify_adapters, parse_lora
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.forward.cut import Call, Pass, attend_alone
from glinthawk.tier1.lora.adapter_settings import AdapterSettings
from glinthawk.tier1.model.loader import LoadedModel, load_model
from lora_adapters import write_adapter

_TARGETS = ("q_proj", "v_proj", "down_proj")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models"), "llama")


def _load(model: Path, *lora: str, **others: Any) -> LoadedModel:
    return load_model(EngineConfig(model=str(model), lora=lora, **others))


def _logits(loaded: LoadedModel, adapter: int | None = None) -> torch.Tensor:
    """Of rows that are sequences of one token each."""
    ids = torch.arange(3, 20)
    adapters = None if adapter is None else torch.full_like(ids, adapter)
    forward = Pass(loaded.model, ids, torch.zeros_like(ids), torch.arange(17), adapters=adapters)
    with torch.inference_mode():
        result = forward.resume(None)
        while isinstance(result, Call):
            result = forward.resume(attend_alone(result))
    return result


@torch.inference_mode()
def _own_logits(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(torch.arange(3, 20).unsqueeze(1)).logits[:, 0]
    return logits


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", {"target_modules": "all-linear", "lora_alpha": 3}),
        ("qwen3", {"target_modules": list(_TARGETS), "use_rslora": True}),
        ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
        (
            "llama",
            {
                "target_modules": r".*layers\.[12]\..*(q|k|up)_proj",
                "rank_pattern": {"q_proj": 5, r"layers\.1\.mlp\.up_proj": 2},
                "alpha_pattern": {"1.self_attn.k_proj": 11},
            },
        ),
    ],
)
def test_what_peft_saves_computes_as_what_peft_merges(
    tmp_path: Path, family: str, said: dict[str, Any]
) -> None:
    model = make_model(tmp_path, family)
    settings = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **said)
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    base_logits = _own_logits(plain)
    truth = _own_logits(PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload())
    assert not torch.allclose(truth, base_logits, atol=0.1)
    beside = _load(model, f"it={tmp_path / 'adapter'}")
    torch.testing.assert_close(_logits(beside, adapter=1), truth, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(_logits(beside, adapter=0), base_logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(_logits(beside), _logits(beside, adapter=0))
    merged = _load(model, str(tmp_path / "adapter"))
    torch.testing.assert_close(_logits(merged), truth, atol=1e-4, rtol=1e-4)


def test_scalings(tmp_path: Path) -> None:
    settings = AdapterSettings(
        tmp_path, 4, 6.0, {r"a\.q": 16, "k": 2}, {"k": 8.0}, is_stabilised=False
    )
    assert [settings.scaling_of(name) for name in ("x.a.q", "b.q", "k", "ak")] == [
        *(6 / 16, 6 / 4, 8 / 2, 6 / 4)
    ]
    stabilised = AdapterSettings(tmp_path, 16, 6.0, {}, {}, is_stabilised=True)
    assert math.isclose(stabilised.scaling_of("q"), 6 / 4)


_Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
_NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def _say(**said: Any) -> _Change:
    return lambda settings, _: settings.update(said)


def _store(name: str, shape: tuple[int, ...] = (4, 64)) -> _Change:
    return lambda _, tensors: tensors.update({name: torch.ones(shape)})


def _rename(old: str, new: str) -> _Change:
    def change(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


_PLACE = "base_model.model.model"
_REFUSED: dict[str, tuple[_Change, str]] = {
    "another kind": (_say(peft_type="LOHA"), "LOHA, not LORA"),
    "DoRA": (_say(use_dora=True), "DoRA"),
    "a head": (_say(modules_to_save=["lm_head"]), "modules_to_save"),
    "bias": (_say(bias="lora_only"), "biases of its own"),
    "bias of LoRA": (_say(lora_bias=True), "lora_bias"),
    "tokens": (_say(trainable_token_indices=[3]), "embeddings"),
    "experts' parameters": (_say(target_parameters=["mlp.experts.gate_up_proj"]), "experts"),
    "PiSSA": (_say(init_lora_weights="pissa_niter_4"), "changed weights"),
    "other ranks": (_say(r=5), "rank 5"),
    "rank as text": (_say(r="many"), "adapter_config.json"),
    "magnitudes": (_store(f"{_PLACE}.layers.1.mlp.lora_magnitude_vector"), "DoRA"),
    "embeddings": (_store(f"{_PLACE}.embed_tokens.lora_embedding_A"), "embeddings"),
    "an expert": (_store(f"{_PLACE}.layers.1.mlp.experts.0.w1.lora_A.weight"), "experts"),
    "a saved module": (_store("base_model.model.lm_head.weight"), "no matrix of LoRA"),
    "half of a pair": (_store(f"{_PLACE}.layers.1.mlp.gate_proj.lora_A.weight"), "lacks"),
    "the output": (_rename("model.layers.1.self_attn.q_proj", "lm_head"), "only linear layers"),
    "more layers": (_rename("layers.1.", "layers.3."), "has 3 layers"),
    "other layers": (_rename("q_proj", "query"), "no such layer"),
    "a norm": (_rename("1.self_attn.q_proj", "1.input_layernorm"), "LlamaRMSNorm"),
    "another size": (_store(_NAME, (4, 32)), "whose weight is"),
    "no numbers": (lambda _, tensors: tensors[_NAME].fill_(math.nan), "not finite"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_not_applied_is_refused_by_name(tmp_path: Path, llama: Path, name: str) -> None:
    change, words = _REFUSED[name]
    folder = write_adapter(tmp_path / "adapter", llama, _TARGETS, seed=1)
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    change(settings, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=words):
        _load(llama, f"it={folder}")


def test_a_slice_reads_its_own_layers_alone(tmp_path: Path, llama: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", llama, _TARGETS, seed=1)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[_NAME].fill_(math.nan)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = EngineConfig(model=str(llama), lora=(f"it={folder}",))
    assert load_model(config, LayerSlice(2, 3, 3)).num_adapters == 1
    with pytest.raises(ModelError, match="not finite"):
        load_model(config, LayerSlice(1, 3, 3))


def test_an_adapter_of_the_model_without_its_head(tmp_path: Path, llama: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", llama, _TARGETS, seed=1)
    truth = _logits(_load(llama, f"it={folder}"), adapter=1)
    tensors = load_file(folder / "adapter_model.safetensors")
    _rename(f"{_PLACE}.", "base_model.model.")({}, tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    assert torch.equal(_logits(_load(llama, f"it={folder}"), adapter=1), truth)


def test_ways_to_name_adapters() -> None:
    given = ("sql=./a=b", '{"name": "x", "path": "p", "base_model_name": "m"}')
    assert parse_lora(given) == (LoraSource("sql", "./a=b"), LoraSource("x", "p"))
    assert parse_lora(("p",)) == (LoraSource(None, "p"),)
    for wrong in (("p", "a=p"), ("a=p", "a=q"), ("=p",), ("a=",), ("",), ("{}",)):
        with pytest.raises(UsageError, match="lora"):
            EngineConfig(model="m", lora=wrong)
    with pytest.raises(UsageError, match="xcache"):
        EngineConfig(model="m", lora=("a=p",), tier2=("local:1",), xcache=0.5)
    assert EngineConfig(model="m", lora=("p",), tier2=("local:1",), xcache=0.5).lora


def test_adapters_are_told_from_one_another(tmp_path: Path, llama: Path) -> None:
    one, same, other = (
        write_adapter(tmp_path / name, llama, ("q_proj",), seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    digests = identify_adapters((f"a={one}", f"b={same}", f"c={other}"))
    assert digests["a"] == digests["b"] != digests["c"]
    with pytest.raises(ModelError, match="no adapter_config"):
        identify_adapters((str(llama),))
