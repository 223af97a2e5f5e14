"""The backbone: two tiers == one model's own forward, greedy, float32, token for token."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import open_cluster
from families import FAMILIES, REFUSED, make_model
from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.errors import UnsupportedModel
from glinthawk.engine.run import open_run
from glinthawk.tier2.cache import KVCache
from model_cases import Case, Cases, prompts_with_prefixes

#: The families that run in every combination of workers, batches, memories and transports.
BACKBONE = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "opt", "gpt2"),
    *("gpt_neox", "phi3", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"),
]


#: workers, batches in flight, pages on Tier 1, transport, scarce KV
MATRIX = list(itertools.product((1, 3), (1, 4), (0, 3), ("inproc", "ipc", "tcp"), (False, True)))


def _cells() -> Iterator[Any]:
    """Every family meets every value of every axis; the first one meets every combination.

    The rest of the matrix is marked ``matrix``: `make test-all` runs it.
    """
    for number, family in enumerate(BACKBONE):
        for combination in range(len(MATRIX)):
            always = number == 0 or combination % 7 == number % 7
            yield pytest.param(family, combination, marks=() if always else pytest.mark.matrix)


@pytest.mark.parametrize(("family", "combination"), list(_cells()))
def test_two_tiers_equal_the_models_own_forward(
    cases: Cases, tmp_path: Path, family: str, combination: int
) -> None:
    case = cases.of(family)
    workers, in_flight, tier1_pages, scheme, scarce = MATRIX[combination]
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme=scheme,
        workers=workers,
        batches_in_flight=in_flight,
        tier1_pages=tier1_pages,
        worker_pages=3 if scarce else 64,
        batch_tokens=96,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
    assert answers == case.expected()
    assert scheduler.is_idle
    if scarce:
        assert scheduler.counts.preemptions > 0


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(BACKBONE)))
def test_other_families_work_too(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family)
    with open_cluster(case.loaded, tmp_path, workers=2, batches_in_flight=2) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


@pytest.mark.parametrize("family", BACKBONE)
@pytest.mark.parametrize("place", ["worker", "tier 1"])
def test_shared_prefixes_change_no_answer(tmp_path: Path, family: str, place: str) -> None:
    case = Case(tmp_path, family, prompts_with_prefixes())
    workers, tier1_pages = (1, 0) if place == "worker" else (0, 64)
    with open_cluster(
        case.loaded, tmp_path, workers=workers, tier1_pages=tier1_pages, batches_in_flight=2
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
    assert answers == case.expected()
    assert scheduler.counts.shared_tokens >= 6 * PAGE_TOKENS


#: Softcaps, sinks and windows: worth the time that Triton's interpreter takes.
_INTERPRETED = ("gemma2", "gpt_oss")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in _INTERPRETED else pytest.mark.gpu)
        for family in BACKBONE
    ],
)
def test_a_worker_whose_kv_is_on_a_gpu_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Without a GPU the same kernels run in Triton's interpreter."""
    case = Case(tmp_path, family, prompts_with_prefixes())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = partial(KVCache, backend="triton")
    monkeypatch.setattr("glinthawk.tier2.session.KVCache", cache)
    with open_cluster(
        case.loaded, tmp_path, workers=1, batches_in_flight=2, worker_device=device
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        assert run.engine.scheduler.counts.shared_tokens >= 6 * PAGE_TOKENS
    assert answers == case.expected()


@pytest.mark.gpu
@pytest.mark.parametrize("family", BACKBONE)
def test_a_run_on_a_gpu_alone_changes_no_answer(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family)
    config = EngineConfig(model=str(case.path), device="cuda", tier1_kv="64MiB")
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path, family: str) -> None:
    path = make_model(tmp_path, family)
    with pytest.raises(UnsupportedModel, match=family), open_run(EngineConfig(model=str(path))):
        pytest.fail("it ran")
