"""Checkpoints without a head that makes tokens: base models, and classifiers with one of labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_families import BACKBONE
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
)

from families import make_model, make_settings
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UnsupportedModel
from glinthawk.core.pooling import PooledRows, Pooling
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.engine.run import open_run
from glinthawk.tier1.model.loader import load_model
from pipeline_nodes import write_cluster

_TOLERANCE = 2e-4
_ROWS: tuple[PooledRows, ...] = ("last", "mean", "first")
_ON_ONE = {"tier1_kv": "1MiB", "tier2": ("local:1",), "worker_kv": "1MiB", "batch_tokens": 40}


def _prompts() -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(4)
    lengths = (1, 2, 33, 90, 7, 150)
    return [tuple(torch.randint(3, 200, (n,), generator=generator).tolist()) for n in lengths]


def _requests(rows: tuple[PooledRows, ...]) -> Iterator[Request]:
    params = SamplingParams(max_tokens=0, temperature=0)
    for number, prompt in enumerate(_prompts()):
        pooling = Pooling(rows[number % len(rows)])
        yield Request(number, prompt, params, 0, 0, pooling=pooling)


def _base(folder: Path, family: str, **settings: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(make_model(folder, family, **settings))
    model.base_model.save_pretrained(folder / "base")
    return folder / "base"


def _classifier(folder: Path, family: str, num_labels: int = 1) -> Path:
    config = make_settings(family, num_labels=num_labels)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder / "classifier")
    return folder / "classifier"


def _answers(path: Path, rows: tuple[PooledRows, ...], **settings: Any) -> list[Sequence]:
    with open_run(EngineConfig(model=str(path), **settings)) as run:
        answers = sorted(run.engine.generate(_requests(rows)), key=lambda s: s.request.id)
        run.engine.scheduler.validate()
    assert len(answers) == len(_prompts())
    return answers


@torch.inference_mode()
def _check_base(path: Path, **settings: Any) -> None:
    own = AutoModel.from_pretrained(path, attn_implementation="eager")
    for sequence in _answers(path, _ROWS, **settings):
        states = own(torch.tensor([sequence.request.prompt])).last_hidden_state[0].double()
        assert sequence.request.pooling is not None
        rows = sequence.request.pooling.rows
        truth = {"last": states[-1], "mean": states.sum(0), "first": states[0]}[rows]
        found = torch.tensor(sequence.pooled, dtype=torch.double)
        assert float((found - truth).norm() / truth.norm()) < _TOLERANCE


@torch.inference_mode()
def _check_classifier(path: Path, **settings: Any) -> None:
    own = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager")
    for sequence in _answers(path, ("last",), **settings):
        truth = own(torch.tensor([sequence.request.prompt])).logits[0].double()
        found = torch.tensor(sequence.pooled, dtype=torch.double)
        assert found.tolist() == pytest.approx(truth.tolist(), abs=1e-3)


def _families(*always: str) -> list[Any]:
    """The others with `make test-all`."""
    matrix = pytest.mark.matrix
    return [pytest.param(name, marks=() if name in always else matrix) for name in BACKBONE]


@pytest.mark.parametrize("family", _families("llama", "gpt2", "gemma2", "opt"))
def test_base_models(tmp_path: Path, family: str) -> None:
    _check_base(_base(tmp_path, family), **_ON_ONE)


@pytest.mark.parametrize("family", _families("qwen3", "gpt2", "gemma2"))
def test_classifiers(tmp_path: Path, family: str) -> None:
    _check_classifier(_classifier(tmp_path, family, num_labels=3), **_ON_ONE)


@pytest.mark.parametrize("kind", ["base", "classifier"])
def test_over_a_pipeline(tmp_path: Path, kind: str) -> None:
    options = {"cluster": write_cluster(tmp_path, [1, 1], "100KiB"), "batch_tokens": 40}
    if kind == "base":
        _check_base(_base(tmp_path, "llama"), **options)
    else:
        _check_classifier(_classifier(tmp_path, "qwen3"), **options)


@pytest.mark.parametrize("kind", ["base", "classifier"])
def test_random_weights(tmp_path: Path, kind: str) -> None:
    make = _base if kind == "base" else _classifier
    config = EngineConfig(model=str(make(tmp_path, "llama")), load_format="dummy")
    assert (load_model(config).head is None) == (kind == "base")


def test_a_classifier_that_lacks_its_head_is_no_classifier(tmp_path: Path) -> None:
    path = _base(tmp_path, "qwen3")
    config = path / "config.json"
    config.write_text(config.read_text().replace("Qwen3Model", "Qwen3ForSequenceClassification"))
    with pytest.raises(ModelError, match=r"lacks 1 weights, score\.weight"):
        load_model(EngineConfig(model=str(path)))


def _small(kind: type[Any], **others: Any) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(vocab_size=99, intermediate_size=48, **sizes, **others)


def test_encoders_are_refused_by_name(tmp_path: Path) -> None:
    BertModel(_small(BertConfig)).save_pretrained(tmp_path / "bert")
    gemma = _small(Gemma3TextConfig, head_dim=16, use_bidirectional_attention=True)
    Gemma3TextModel(gemma).save_pretrained(tmp_path / "gemma")
    for name, kind in (("bert", "bert"), ("gemma", "gemma3_text")):
        with pytest.raises(UnsupportedModel, match=rf"{name} \({kind}\) cannot run on two tiers"):
            load_model(EngineConfig(model=str(tmp_path / name)))
