"""Answers keep to their constraints, and are the same wherever and however they are computed."""

import os
import re
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from glinthawk import LLM, RequestOutput, SamplingParams, StructuredOutputsParams, Thoughts
from glinthawk.core.batch import Batch
from pipeline_nodes import write_cluster
from structured_cases import STRUCTURED_CASES, StructuredCase
from zygote import children

_BATCH = 64
_PROMPTS = ("Return a dictionary", "The list type is", "What is", "Raises", "An integer")


def _cases(seeds: int) -> Iterator[tuple[StructuredCase | None, str, SamplingParams]]:
    """Every constraint, so often; and some prompts without one between them."""
    number = 0
    for seed in range(seeds):
        for case in (*STRUCTURED_CASES, None, None):
            number += 1
            params = SamplingParams(
                temperature=1.0 if (seed + 1) % 4 else 0.0,
                seed=seed,
                max_tokens=96 if case is not None else 24,
                structured_outputs=case and case.wanted,
            )
            yield case, _PROMPTS[number % len(_PROMPTS)], params


def _answer(seeds: int, least_preemptions: int = 0, **settings: Any) -> list[RequestOutput]:
    cases = list(_cases(seeds))
    with LLM("demo", batch_size=_BATCH, **settings) as llm:
        outputs = llm.generate(
            [prompt for _, prompt, _ in cases], [params for *_, params in cases], use_tqdm=False
        )
        assert llm.stats.preemptions >= least_preemptions
    return outputs


def _tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def on_one_tier() -> list[RequestOutput]:
    return _answer(4, tier1_kv="64MiB")


def test_there_are_enough_cases() -> None:
    assert len(STRUCTURED_CASES) >= 50
    assert len({case.wanted for case in STRUCTURED_CASES}) == len(STRUCTURED_CASES)


def test_every_finished_answer_fits(on_one_tier: list[RequestOutput]) -> None:
    finished: dict[Any, int] = {}
    for (case, _, _), output in zip(_cases(4), on_one_tier, strict=True):
        answer = output.outputs[0]
        if case is not None and answer.finish_reason == "stop":
            assert case.fits(answer.text), (case.wanted, answer.text)
            finished[case.wanted] = finished.get(case.wanted, 0) + 1
    # Others are as long as they may be: numbers and strings without an end.
    assert sum(finished.values()) > 0.85 * 4 * len(STRUCTURED_CASES)


@pytest.mark.parametrize(
    ("settings", "least_preemptions"),
    [
        ({"tier2": "local:2", "worker_kv": "16MiB", "tier1_kv": 0}, 0),
        ({"tier1_kv": "512KiB", "batches_in_flight": 2}, 1),
    ],
    ids=["two tiers", "pre-empted"],
)
def test_placement_and_preemption_change_nothing(
    on_one_tier: list[RequestOutput], settings: dict[str, Any], least_preemptions: int
) -> None:
    answers = _tokens(_answer(1, least_preemptions, **settings))
    assert answers == _tokens(on_one_tier)[: len(answers)]


def test_the_last_node_of_a_pipeline_keeps_to_constraints(
    tmp_path: Path, on_one_tier: list[RequestOutput]
) -> None:
    answers = _tokens(_answer(1, cluster=write_cluster(tmp_path, [1, 1])))
    assert answers == _tokens(on_one_tier)[: len(answers)]


def test_a_worker_that_dies_changes_nothing(
    on_one_tier: list[RequestOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = list(_cases(1))
    lost: list[int] = []
    with LLM("demo", batch_size=_BATCH, tier2="local:2", worker_kv="16MiB") as llm:
        tier1, steps = llm._model.run.tier1, count(1)
        start, lose = tier1.start, tier1.lose

        def start_and_kill(batch: Batch) -> None:
            start(batch)
            if next(steps) == 10:
                os.kill(max(children()), signal.SIGKILL)

        def note_and_lose(home: int) -> None:
            lost.append(home)
            lose(home)

        monkeypatch.setattr(tier1, "start", start_and_kill)
        monkeypatch.setattr(tier1, "lose", note_and_lose)
        outputs = llm.generate(
            [prompt for _, prompt, _ in cases], [params for *_, params in cases], use_tqdm=False
        )
    assert lost
    assert _tokens(outputs) == _tokens(on_one_tier)[: len(cases)]


def test_thoughts_that_the_prompt_began_end_before_the_answer() -> None:
    """Sampled by a model that knows nothing of thoughts, so that they end by chance: an end mark
    that is a space."""
    wanted = StructuredOutputsParams(
        choice=["yes", "no"], thoughts=Thoughts("", " ", are_open=True)
    )
    params = [
        SamplingParams(temperature=1, seed=seed, max_tokens=96, structured_outputs=wanted)
        for seed in range(16)
    ]
    with LLM("demo", tier1_kv="64MiB") as llm:
        outputs = llm.generate(_PROMPTS[:1] * len(params), params, use_tqdm=False)
    texts = [one.outputs[0].text for one in outputs if one.outputs[0].finish_reason == "stop"]
    assert len(texts) > 8
    assert all(re.fullmatch(r"[^ ]* (\s{0,8})(yes|no)", text) for text in texts), texts
