"""The backbone of prompts' log-probabilities: those of the model's own forward, wherever the prompt
is attended and however it is cut."""

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
from glinthawk.core.batch import Batch
from glinthawk.core.config import EngineConfig
from glinthawk.core.prompt_scores import TokenScore
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from model_cases import NUM_SHORT, Case
from pipeline_nodes import write_cluster

#: So few that prompts are cut for their sake.
_FEW_ROWS = 23
_TOLERANCE = 1e-4


def _requests(case: Case) -> Iterator[Request]:
    """Scored with 0 to 3 alternatives or not at all; some later prompts have no answer."""
    for request in case.requests():
        wish = None if request.id % 5 == 4 else request.id % 4
        longest = 0 if request.id >= NUM_SHORT and request.id % 4 == 3 else request.max_tokens
        params = replace(request.params, max_tokens=longest, prompt_logprobs=wish)
        yield replace(request, params=params, max_tokens=longest)


@torch.inference_mode()
def _check(case: Case, run: Run) -> None:
    """Scores of all, and that nobody's answer is another for it."""
    own = AutoModelForCausalLM.from_pretrained(case.path, attn_implementation="eager")
    answers = list(run.engine.generate(_requests(case)))
    run.engine.scheduler.validate()
    assert len(answers) == len(case.prompts)
    for sequence in answers:
        request, expected = sequence.request, case.expected()[sequence.request.id]
        assert sequence.output == (expected if request.max_tokens else [])
        prompt, wish = request.prompt, request.params.prompt_logprobs
        scores = [score for part in sequence.scores for score in part]
        assert len(scores) == (0 if wish is None else len(prompt) - 1)
        truth = torch.log_softmax(own(torch.tensor([prompt])).logits[0].float(), dim=-1)
        for row, token, score in zip(truth, prompt[1:], scores, strict=False):
            _check_score(row, token, score, wish or 0)


def _check_score(truth: torch.Tensor, token: int, score: TokenScore, num_top: int) -> None:
    assert score.logprob == pytest.approx(float(truth[token]), abs=_TOLERANCE)
    values = [value for _, value in score.top]
    assert values == pytest.approx([float(truth[id]) for id, _ in score.top], abs=_TOLERANCE)
    assert values == pytest.approx(truth.topk(num_top).values.tolist(), abs=_TOLERANCE)
    likelier = truth > truth[token] + _TOLERANCE
    as_likely = truth >= truth[token] - _TOLERANCE
    assert int(likelier.sum()) < score.rank <= int(as_likely.sum())


@pytest.fixture(scope="module")
def made() -> LastCase:
    return LastCase()


_LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks of 7": {"batch_tokens": 7, "batches_in_flight": 2, "tier1_pages": 8, "workers": 2},
    "chunks of 64": {"batch_tokens": 64, "workers": 2},
    "tier 1": {"batch_tokens": 64, "workers": 0, "tier1_pages": 64},
    "scarce": {"batch_tokens": 40, "workers": 1, "worker_pages": 9, "batches_in_flight": 3},
    "large steps": {"workers": 1, "tier1_pages": 12},
}


def _cells() -> Iterator[Any]:
    """Some families in all layouts, all families in one; the rest with `make test-all`."""
    for family, layout in itertools.product(BACKBONE, _LAYOUTS):
        always = family in ("llama", "gemma2", "gpt_oss") or layout == "chunks of 64"
        yield pytest.param(family, layout, marks=() if always else pytest.mark.matrix)


@pytest.mark.parametrize(("family", "layout"), list(_cells()))
def test_prompts_are_scored_as_the_model_itself_does(
    tmp_path: Path, made: LastCase, family: str, layout: str
) -> None:
    case = made.find(tmp_path, family)
    with open_cluster(case.loaded, tmp_path, **_LAYOUTS[layout]) as run:
        _check(case, run)
        counts = run.engine.scheduler.counts
        assert counts.shared_tokens
        assert counts.preemptions or (family, layout) != ("llama", "scarce")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("batch_tokens", [40, 2048])
def test_a_step_scores_few_rows(
    tmp_path: Path, family: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glinthawk.engine.run.most_scored_rows", lambda _: _FEW_ROWS)
    case, steps = Case(tmp_path, family, varied_prompts()), []
    with open_cluster(case.loaded, tmp_path, workers=2, batch_tokens=batch_tokens) as run:
        start = run.tier1.start

        def counting(batch: Batch) -> None:
            steps.append(sum(span.num_scored for span in batch.spans))
            start(batch)

        run.tier1.start = counting  # type: ignore[method-assign]
        _check(case, run)
    assert max(steps) == _FEW_ROWS


def test_over_a_pipeline(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama", varied_prompts())
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    config = EngineConfig(model=str(case.path), cluster=cluster, batch_tokens=40)
    with open_run(config) as run:
        _check(case, run)
