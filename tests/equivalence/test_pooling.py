"""The backbone of embeddings: what the model's own forward ends with behind its last norm, wherever
a prompt is attended, however it is cut, and whatever is answered beside it."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_cases import LastCase, varied_prompts
from test_families import BACKBONE
from transformers import AutoModelForCausalLM

from cluster import open_cluster
from glinthawk.core.config import EngineConfig
from glinthawk.core.pooling import Pooling
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from model_cases import NUM_SHORT, Case
from pipeline_nodes import write_cluster

_TOLERANCE = 2e-4
_JUDGED = (7, 190, 3)
_POOLINGS = (
    *(Pooling("last"), None, Pooling("mean"), None),
    *(Pooling("first"), None, Pooling("last", _JUDGED)),
)


def _requests(case: Case) -> Iterator[Request]:
    """Pooled in each way, and some that are answered; some of those are scored, too. The first ones
    are answered, shortly: from them the scheduler learns to take in too many of the long ones."""
    for request in case.requests():
        pooling = None if request.id < NUM_SHORT else _POOLINGS[request.id % len(_POOLINGS)]
        if pooling is not None:
            params = replace(request.params, max_tokens=0)
            yield replace(request, params=params, max_tokens=0, pooling=pooling)
        else:
            wish = 1 if request.id % 2 else None
            yield replace(request, params=replace(request.params, prompt_logprobs=wish))


def _truth(own: Any, request: Request) -> torch.Tensor:
    """What is added up, plainly."""
    pooling, ids = request.pooling, torch.tensor([request.prompt])
    assert pooling is not None
    if pooling.tokens:
        return own(ids).logits[0, -1, list(pooling.tokens)].double()
    states = own.base_model(ids).last_hidden_state[0].double()
    return {"last": states[-1], "mean": states.sum(0), "first": states[0]}[pooling.rows]


@torch.inference_mode()
def _check(case: Case, run: Run) -> None:
    own = AutoModelForCausalLM.from_pretrained(case.path, attn_implementation="eager")
    answers = list(run.engine.generate(_requests(case)))
    run.engine.scheduler.validate()
    assert len(answers) == len(case.prompts)
    for sequence in answers:
        request = sequence.request
        if request.pooling is None:
            assert sequence.output == case.expected()[request.id]
            continue
        assert sequence.output == []
        assert sequence.pooled is not None
        truth = _truth(own, request)
        found = torch.tensor(sequence.pooled, dtype=torch.double)
        assert found.shape == truth.shape
        assert float((found - truth).norm() / truth.norm()) < _TOLERANCE, request.pooling


@pytest.fixture(scope="module")
def made() -> LastCase:
    return LastCase()


_LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks of 7": {"batch_tokens": 7, "batches_in_flight": 2, "tier1_pages": 8, "workers": 2},
    "chunks of 64": {"batch_tokens": 64, "workers": 2},
    "tier 1": {"batch_tokens": 64, "workers": 0, "tier1_pages": 64},
    "scarce": {"batch_tokens": 40, "workers": 1, "worker_pages": 9, "batches_in_flight": 3},
    "heads": {"workers": 2, "split": "heads", "batch_tokens": 40},
    "tokens": {"workers": 2, "split": "tokens", "batch_tokens": 40},
    "large steps": {"workers": 1, "tier1_pages": 12, "speculation": "prompt-lookup"},
}


def _cells() -> Iterator[Any]:
    """Some families in all layouts, all families in one; the rest with `make test-all`."""
    for family, layout in itertools.product(BACKBONE, _LAYOUTS):
        always = family in ("llama", "gpt2") or layout == "chunks of 64"
        yield pytest.param(family, layout, marks=() if always else pytest.mark.matrix)


@pytest.mark.parametrize(("family", "layout"), list(_cells()))
def test_prompts_are_pooled_as_the_model_itself_ends(
    tmp_path: Path, made: LastCase, family: str, layout: str
) -> None:
    case = made.find(tmp_path, family)
    with open_cluster(case.loaded, tmp_path, **_LAYOUTS[layout]) as run:
        _check(case, run)
        counts = run.engine.scheduler.counts
        assert counts.shared_tokens
        assert counts.preemptions or (family, layout) != ("llama", "scarce")


def test_over_a_pipeline(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama", varied_prompts())
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    config = EngineConfig(model=str(case.path), cluster=cluster, batch_tokens=40)
    with open_run(config) as run:
        _check(case, run)
