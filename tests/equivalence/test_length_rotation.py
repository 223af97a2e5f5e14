"""The backbone with rotary embeddings that change with the length: each sequence is rotated by its
own, as if it were alone, however it is cut, placed and accompanied."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import open_cluster
from forced_drafts import force_drafts
from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from length_rotations import ORIGINAL, ROTATIONS
from model_cases import NUM_SHORT, Case
from pipeline_nodes import write_cluster


def _tokens(length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 200, (length,), generator=generator).tolist())


def _prompts() -> list[tuple[int, ...]]:
    """Of lengths on both sides of the original one. The last ones get 36 tokens: they end below it,
    cross it, or begin beyond. Some begin with the same page, but are not all rotated alike."""
    short = [_tokens(30 + number, number) for number in range(NUM_SHORT)]
    long = [_tokens(n, 50 + n) for n in (1, 4, 5, 38, 39, 40, 41, 42, 64, 70)]
    page = _tokens(PAGE_TOKENS, 99)
    alike = [page + _tokens(n, 70 + n) for n in (1, 3, 8, 9, 30)]
    return [*short, *long, *alike, page + _tokens(30, 71), page + _tokens(3, 72)]


@pytest.fixture(scope="module", params=ROTATIONS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, settings = ROTATIONS[request.param]
    return Case(tmp_path_factory.mktemp("models"), family, _prompts(), **settings)


def _check(case: Case, run: Run) -> None:
    answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    run.engine.scheduler.validate()
    assert run.engine.scheduler.is_idle
    assert answers == case.expected()


_LAYOUTS: dict[str, dict[str, Any]] = {
    "tier 1": {"workers": 0, "tier1_pages": 64},
    "workers": {"workers": 2, "batches_in_flight": 2},
    "hybrid in chunks": {"workers": 1, "tier1_pages": 8, "batches_in_flight": 2, "batch_tokens": 7},
    "heads": {"workers": 2, "split": "heads"},
    "tokens": {"workers": 3, "split": "tokens", "stripe_pages": 1},
}


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_layouts(case: Case, tmp_path: Path, layout: str) -> None:
    with open_cluster(case.loaded, tmp_path, **_LAYOUTS[layout]) as run:
        _check(case, run)
        assert run.engine.scheduler.counts.shared_tokens


@pytest.mark.parametrize("chunk", [2048, 7])
def test_what_is_given_up_is_rotated_as_before(case: Case, tmp_path: Path, chunk: int) -> None:
    with open_cluster(case.loaded, tmp_path, worker_pages=7, batch_tokens=chunk) as run:
        _check(case, run)
        assert run.engine.scheduler.counts.preemptions


def test_drafts(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = zip(case.prompts, case.answers, strict=True)
    force_drafts(monkeypatch, [(*prompt, *answer) for prompt, answer in pairs])
    with open_cluster(case.loaded, tmp_path, speculation="prompt-lookup") as run:
        _check(case, run)
        assert run.engine.scheduler.counts.accepted_tokens > 100


def test_beside_an_x_cache(case: Case, tmp_path: Path) -> None:
    share = XShare(0.5, learn_rebuild(case.loaded.model, case.loaded.spec))
    with open_cluster(case.loaded, tmp_path, worker_pages=8, x_share=share) as run:
        _check(case, run)
        assert run.stats().xcache_bytes_peak


def test_over_a_pipeline(case: Case, tmp_path: Path) -> None:
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    with open_run(EngineConfig(model=str(case.path), cluster=cluster, batch_tokens=40)) as run:
        _check(case, run)


def test_bits_do_not_depend_on_company(case: Case) -> None:
    answers = []
    for settings in ({"batch_size": 1}, {"batch_size": 16}, {"batch_tokens": 7}):
        config = EngineConfig(
            model=str(case.path), tier1_kv="8MiB", batch_invariant=True, **settings
        )
        with open_run(config) as run:
            done = run.engine.generate(_sampled(case))
            answers.append({s.id: (s.output, s.logprobs, s.scores) for s in done})
    assert answers[0] == answers[1]
    assert _without_parts(answers[0]) == _without_parts(answers[2])


def _sampled(case: Case) -> list[Request]:
    params = SamplingParams(temperature=0.9, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    return [
        Request(number, prompt, params, seed=number, max_tokens=20)
        for number, prompt in enumerate(case.prompts[NUM_SHORT:])
    ]


def _without_parts(answers: dict[int, Any]) -> dict[int, Any]:
    """Chunks of a prompt are scored apart."""
    return {
        number: (output, logprobs, [token for part in scores for token in part])
        for number, (output, logprobs, scores) in answers.items()
    }


def test_a_short_run_leaves_the_embedding_as_it_is(case: Case) -> None:
    config = EngineConfig(model=str(case.path), tier1_kv="1MiB", max_model_len=ORIGINAL)
    with open_run(config) as run:
        assert run.engine.scheduler.limits.rope is None
        assert run.limits.longest_len > ORIGINAL
