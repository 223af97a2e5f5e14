"""The backbone with drafts, right ones and wrong ones: they change no answer, wherever KV is."""

from pathlib import Path
from typing import Any

import pytest
from drive_cases import make_case
from test_families import BACKBONE

from cluster import open_cluster
from delayed_staging import LateStaging, often_late
from forced_drafts import force_drafts
from glinthawk.core.config import EngineConfig
from glinthawk.engine.run import Run, open_run
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from model_cases import NUM_SHORT, Case, Cases, prompts_with_prefixes
from pipeline_nodes import write_cluster


def _force(patch: pytest.MonkeyPatch, case: Case) -> None:
    texts = zip(case.prompts, case.answers, strict=True)
    force_drafts(patch, [(*prompt, *answer) for prompt, answer in texts])


def _check(case: Case, run: Run, num_first: int = 0) -> None:
    """All is as the model itself says; drafts were right and wrong, and spared batches. The first
    ``num_first`` requests have ended before the others come."""
    requests = list(case.requests())
    parts = requests[:num_first], requests[num_first:]
    answers = {s.id: s.output for part in parts for s in run.engine.generate(part)}
    run.engine.scheduler.validate()
    counts = run.engine.scheduler.counts
    assert answers == case.expected()
    assert 0 < counts.accepted_tokens < counts.drafted_tokens


@pytest.mark.parametrize("family", BACKBONE)
def test_at_workers_and_on_tier_1(
    cases: Cases, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases.of(family)
    _force(monkeypatch, case)
    with open_cluster(
        case.loaded,
        tmp_path,
        workers=2,
        tier1_pages=6,
        batches_in_flight=2,
        batch_tokens=64,
        speculation="prompt-lookup",
    ) as run:
        _check(case, run)


_LAYOUTS: dict[str, dict[str, Any]] = {
    "tier 1": {"workers": 0, "tier1_pages": 64},
    "scarce": {"workers": 1, "worker_pages": 5, "batches_in_flight": 3},
    "chunks": {"workers": 1, "batch_tokens": 9},
    "heads": {"workers": 2, "split": "heads"},
    "tokens": {"workers": 3, "split": "tokens", "stripe_pages": 1},
    "late": {"workers": 1, "staging": lambda: LateStaging(often_late(1))},
    "fetch": {"placement": "fetch"},
}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_layouts(
    cases: Cases, tmp_path: Path, family: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases.of(family)
    _force(monkeypatch, case)
    options = {"batch_tokens": 96, **_LAYOUTS[layout]}
    with open_cluster(case.loaded, tmp_path, speculation="prompt-lookup", **options) as run:
        # Short answers teach the scheduler to take in too many of the long ones.
        _check(case, run, num_first=NUM_SHORT if layout == "scarce" else 0)
        assert layout != "scarce" or run.engine.scheduler.counts.preemptions


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_on_drives(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that a wrong guess has filled may be on a drive when they are written to again."""
    case = make_case(tmp_path, family, num_long=4)
    _force(monkeypatch, case)
    with open_cluster(
        case.loaded,
        tmp_path,
        worker_pages=16,
        worker_storage=16 << 20,
        batches_in_flight=2,
        speculation="prompt-lookup",
    ) as run:
        _check(case, run)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_beside_an_x_cache(
    cases: Cases, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases.of(family)
    _force(monkeypatch, case)
    share = XShare(0.5, learn_rebuild(case.loaded.model, case.loaded.spec))
    with open_cluster(case.loaded, tmp_path, x_share=share, speculation="prompt-lookup") as run:
        _check(case, run)


@pytest.mark.parametrize("tier1_pages", [0, 64])
def test_behind_prefixes_that_are_shared(
    tmp_path: Path, tier1_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [(3 + number,) for number in range(NUM_SHORT)]
    case = Case(tmp_path, "llama", [*short, *prompts_with_prefixes()])
    _force(monkeypatch, case)
    with open_cluster(
        case.loaded,
        tmp_path,
        workers=0 if tier1_pages else 1,
        tier1_pages=tier1_pages,
        speculation="prompt-lookup",
    ) as run:
        _check(case, run)
        assert run.engine.scheduler.counts.shared_tokens


def test_over_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path, "llama")
    _force(monkeypatch, case)
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    config = EngineConfig(
        model=str(case.path), cluster=cluster, batch_tokens=96, speculation="prompt-lookup"
    )
    with open_run(config) as run:
        _check(case, run)
