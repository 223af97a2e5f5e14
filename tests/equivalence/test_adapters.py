"""LoRA: a batch of several adapters == each adapter's model, merged by hand, alone."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from families import make_model
from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, TokenLogprobs
from glinthawk.engine.run import open_run
from lora_adapters import merge_by_hand, write_adapter
from model_cases import own_answer
from pipeline_nodes import write_cluster
from zygote import children

_TOKENS = 6
#: The model's linear layers that adapters of a family are on: all, or attention's alone.
_ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_TARGETS = {
    "llama": [_ALL, ("q_proj", "v_proj")],
    "qwen3": [_ALL, ("k_proj", "up_proj")],
    "phi3": [("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), ("qkv_proj",)],
}
#: All begin alike, for some pages: KV of one adapter would be taken for another's.
_COMMON = tuple(range(5, 5 + 2 * PAGE_TOKENS + 3))
_SHORT = [tuple(range(3 + i, 9 + i)) for i in range(3)]
_LONG = [(*_COMMON, 90 + i) for i in range(3)]
_PROMPTS = [*_SHORT, *_LONG]
_LAYOUTS: dict[str, dict[str, Any]] = {
    "tier 1": {"tier1_kv": "1MiB"},
    "worker": {"tier2": ("local:1",), "worker_kv": "1MiB"},
    "hybrid": {"tier2": ("local:1",), "tier1_kv": "96KiB", "worker_kv": "1MiB"},
    "heads": {"tier2": ("local:2",), "split_attention": "heads"},
    "tokens": {"tier2": ("local:2",), "split_attention": "tokens"},
    "drafts": {"tier1_kv": "1MiB", "speculation": "prompt-lookup"},
    "one by one": {"tier1_kv": "1MiB", "batch_size": 1},
    "chunks": {"tier1_kv": "1MiB", "batch_tokens": 16},
}


class _Model:
    """A model, two adapters of it, and what each of the three answers."""

    def __init__(self, folder: Path, family: str) -> None:
        self.path = make_model(folder, family)
        self.adapters = [
            write_adapter(folder / f"adapter {number}", self.path, targets, number, rank=4 * number)
            for number, targets in enumerate(_TARGETS[family], start=1)
        ]
        self.lora = tuple(f"{path.name.replace(' ', '-')}={path}" for path in self.adapters)
        merged = [merge_by_hand(self.path, adapter) for adapter in (None, *self.adapters)]
        self.answers = {
            (number, place): own_answer(model, prompt, _TOKENS)
            for number, model in enumerate(merged)
            for place, prompt in enumerate(_PROMPTS)
        }

    def expected(self) -> dict[int, list[int]]:
        return {one.id: self.answers[one.adapter, one.id // 3] for one in _requests()}


def _requests() -> Iterator[Request]:
    """Each prompt by each adapter, and by none."""
    params = SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True)
    for number in range(3 * len(_PROMPTS)):
        prompt = _PROMPTS[number // 3]
        yield Request(number, prompt, params, 0, _TOKENS, adapter=number % 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Model]:
    folder = tmp_path_factory.mktemp("adapted")
    return {family: _Model(folder / family, family) for family in _TARGETS}


def _run(config: EngineConfig) -> dict[int, list[int]]:
    with open_run(config) as run:
        answers = {s.request.id: s.output for s in run.engine.generate(_requests())}
        shared = run.engine.scheduler.counts.shared_tokens
    # Of the long prompts, each adapter's first is computed whole. What is measured at start decides
    # who shares, where there are several homes or batches.
    assert shared <= 3 * (len(_LONG) - 1) * len(_COMMON)
    assert shared or config.tier2 or config.cluster or config.batch_size == 1
    return answers


@pytest.mark.parametrize("family", _TARGETS)
def test_every_family(models: dict[str, _Model], family: str) -> None:
    model = models[family]
    assert len({tuple(answer) for answer in model.answers.values()}) > 2 * len(_PROMPTS)
    config = EngineConfig(model=str(model.path), lora=model.lora, **_LAYOUTS["tier 1"])
    assert _run(config) == model.expected()


@pytest.mark.parametrize("layout", [name for name in _LAYOUTS if name != "tier 1"])
def test_every_layout(models: dict[str, _Model], layout: str) -> None:
    model = models["llama"]
    config = EngineConfig(model=str(model.path), lora=model.lora, **_LAYOUTS[layout])
    assert _run(config) == model.expected()


def test_slices_have_their_own_layers_of_every_adapter(
    models: dict[str, _Model], tmp_path: Path
) -> None:
    model = models["llama"]
    cluster = write_cluster(tmp_path, [1, 1], "1MiB")
    config = EngineConfig(model=str(model.path), lora=model.lora, cluster=cluster)
    assert _run(config) == model.expected()


def test_a_lost_home_computes_with_the_same_adapters_again(models: dict[str, _Model]) -> None:
    model = models["llama"]
    config = EngineConfig(model=str(model.path), lora=model.lora, **_LAYOUTS["hybrid"])
    answers: dict[int, list[int]] = {}
    with open_run(config) as run:
        for sequence in run.engine.generate(_requests()):
            if not answers:
                os.kill(max(children()), signal.SIGKILL)
            answers[sequence.request.id] = sequence.output
    assert answers == model.expected()


def test_bits_do_not_depend_on_other_rows_adapters(models: dict[str, _Model]) -> None:
    """In bfloat16, where products in other company come to other bits."""
    model = models["llama"]
    settings = {"lora": model.lora, "dtype": "bfloat16", "batch_invariant": True}
    whole = _scored(EngineConfig(model=str(model.path), **_LAYOUTS["tier 1"], **settings))
    alone = _scored(EngineConfig(model=str(model.path), **_LAYOUTS["one by one"], **settings))
    assert whole == alone
    assert len({tuple(output) for output, _ in whole.values()}) > len(_PROMPTS)


def _scored(config: EngineConfig) -> dict[int, tuple[list[int], list[TokenLogprobs]]]:
    params = SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True, logprobs=1)
    requests = [replace(request, params=params) for request in _requests()]
    with open_run(config) as run:
        return {s.request.id: (s.output, s.logprobs) for s in run.engine.generate(requests)}
