"""Drafts change no answer where tokens before decide what may follow: penalties, bans, grammars,
stop strings; nor random numbers, log-probabilities, or bits that depend on no company."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from families import make_model
from forced_drafts import force_drafts
from glinthawk import LLM, Logprob, RequestOutput, RunStats, SamplingParams
from glinthawk.core.config import EngineConfig
from glinthawk.core.sequence import Request
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.engine.run import Run, open_run
from interrupted_runs import answer, config, requests
from pipeline_nodes import write_cluster

_GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
_RULES = [
    _GREEDY,
    SamplingParams(temperature=0, max_tokens=60, min_tokens=30),
    SamplingParams(temperature=0.8, top_p=0.95, max_tokens=40, seed=1, n=3),
    SamplingParams(temperature=0.9, max_tokens=40, seed=2, repetition_penalty=1.2),
    SamplingParams(
        temperature=0, max_tokens=40, frequency_penalty=0.7, presence_penalty=0.2, logprobs=3
    ),
    SamplingParams(temperature=1.1, max_tokens=40, seed=3, logit_bias={5: 4.0}, logprobs=0),
    SamplingParams(temperature=0, max_tokens=40, stop=["e", "a"], min_tokens=7, logprobs=1),
    SamplingParams(temperature=0, max_tokens=40, stop=["the", "int"], ignore_eos=True),
    SamplingParams(
        temperature=1,
        max_tokens=40,
        seed=4,
        structured_outputs=StructuredOutputsParams(regex="[a-z]{3,9}( [a-z]{3,9}){5,9}"),
    ),
    SamplingParams(
        temperature=0,
        max_tokens=40,
        presence_penalty=0.5,
        logprobs=2,
        structured_outputs=StructuredOutputsParams(regex="([0-9]+, ){9}"),
    ),
]
_PROMPTS = ("Return a dictionary", "The list type is")

Answers = list[list[Any]]


def _answer(**settings: Any) -> tuple[list[RequestOutput], RunStats]:
    asked = [(prompt, params) for params in _RULES for prompt in _PROMPTS]
    with LLM("demo", dtype="float32", batch_size=8, **settings) as llm:
        outputs = llm.generate(
            [prompt for prompt, _ in asked], [params for _, params in asked], use_tqdm=False
        )
        return outputs, llm.stats


def _shown(outputs: list[RequestOutput]) -> Answers:
    """All that users see, but for logarithms, which are rounded by the company."""
    return [
        [(choice.token_ids, choice.text, choice.finish_reason, _ranks(choice.logprobs))]
        for output in outputs
        for choice in output.outputs
    ]


def _ranks(logprobs: list[dict[int, Logprob]] | None) -> list[list[tuple[int, int]]]:
    return [[(token, one.rank) for token, one in at.items()] for at in logprobs or ()]


@pytest.fixture(scope="module")
def plain() -> list[RequestOutput]:
    return _answer(tier1_kv="64MiB")[0]


_LAYOUTS: dict[str, dict[str, Any]] = {
    "tier 1": {"tier1_kv": "64MiB"},
    "worker": {"tier2": "local:1", "worker_kv": "64MiB"},
    "pipeline": {},
}


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_all_rules_hold(
    layout: str, plain: list[RequestOutput], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_drafts(
        monkeypatch,
        [
            (*output.prompt_token_ids, *choice.token_ids)
            for output in plain
            for choice in output.outputs
        ],
    )
    settings = dict(_LAYOUTS[layout])
    if layout == "pipeline":
        settings["cluster"] = write_cluster(tmp_path, [1, 1], "1MiB")
    outputs, stats = _answer(speculation="prompt-lookup", **settings)
    assert _shown(outputs) == _shown(plain)
    assert 0 < stats.accepted_tokens < stats.drafted_tokens


def _requests() -> Iterator[Request]:
    """Greedy ones and sampled ones; the first ones repeat themselves."""
    for number in range(16):
        prompt = tuple(3 + place % (3 + number) for place in range(20 + 3 * number))
        temperature = 0.0 if number % 2 else 0.9
        params = SamplingParams(temperature=temperature, top_p=0.9, logprobs=3, ignore_eos=True)
        yield Request(number, prompt, params, seed=number, max_tokens=40)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bits_of_batch_invariant_runs_stay(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make_model(tmp_path, "llama"))
    one = EngineConfig(model=path, dtype=dtype, batch_invariant=True, tier1_kv="8MiB")  # type: ignore[arg-type]

    def run_all(run: Run) -> dict[int, Any]:
        answers = run.engine.generate(_requests())
        return {one.request.id: (one.output, one.logprobs) for one in answers}

    with open_run(one) as run:
        expected = run_all(run)
    texts = [(*request.prompt, *expected[request.id][0]) for request in _requests()]
    force_drafts(monkeypatch, texts)
    with open_run(replace(one, speculation="prompt-lookup")) as run:
        assert run_all(run) == expected
        counts = run.engine.scheduler.counts
        assert 0 < counts.accepted_tokens < counts.drafted_tokens


def test_a_killed_worker_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path, "llama")
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB", batch_size=4)) as run:
        undisturbed = answer(run)
    texts = [(*request.prompt, *undisturbed[request.id]) for request in requests(24)]
    force_drafts(monkeypatch, texts)
    drafting = replace(config(model, "local:2"), speculation="prompt-lookup")
    with open_run(drafting) as run:
        assert answer(run, kill_after=3) == undisturbed
        counts = run.engine.scheduler.counts
        assert 0 < counts.accepted_tokens < counts.drafted_tokens
        assert counts.repeated_tokens
