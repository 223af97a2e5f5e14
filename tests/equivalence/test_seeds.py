"""Sampled answers are a request's own, wherever it runs and however often it begins again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run

NUM_SHORT, NUM_LONG = 20, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def _requests() -> Iterator[Request]:
    """All bring the same seed. The first ones end at once, so that the scheduler expects short
    answers, takes in too many of the long ones and must pre-empt."""
    for number in range(NUM_SHORT + NUM_LONG):
        stop = tuple(range(300)) if number < NUM_SHORT else (299,)
        params = SamplingParams(temperature=1.2, top_p=0.95, seed=42, stop_token_ids=stop)
        prompt = tuple(range(5 + number, 20 + number + 2 * number % 29))
        seed = choice_seed(0, params, str(number), 0, prompt)
        yield Request(number, prompt, params, seed, max_tokens=40)


def _answer(run: Run) -> dict[int, list[int]]:
    return {one.request.id: one.output for one in run.engine.generate(_requests())}


@pytest.fixture(scope="module")
def alone(model: Path) -> dict[int, list[int]]:
    """One after the other."""
    with open_run(EngineConfig(model=str(model), batch_size=1)) as run:
        return _answer(run)


def test_equal_seeds_are_other_numbers_for_other_prompts(alone: dict[int, list[int]]) -> None:
    assert len({tuple(alone[NUM_SHORT + number]) for number in range(NUM_LONG)}) == NUM_LONG


@pytest.mark.parametrize("places", [(), ("local:1",)], ids=["one tier", "a worker"])
def test_after_pre_emption(
    model: Path, alone: dict[int, list[int]], places: tuple[str, ...]
) -> None:
    count = 0
    for size in ("72KiB", "96KiB", "120KiB"):
        name = "worker_kv" if places else "tier1_kv"
        with open_run(EngineConfig(model=str(model), tier2=places, **{name: size})) as run:
            assert _answer(run) == alone
            count += run.stats().preemptions
    assert count


def test_over_a_pipeline(model: Path, alone: dict[int, list[int]], tmp_path: Path) -> None:
    """Its last node samples, and another one may lose its worker's KV."""
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[[nodes]]\nworkers = ["local:1"]\nworker_kv = "64KiB"\n' * 2)
    with open_run(EngineConfig(model=str(model), cluster=str(cluster), batch_size=8)) as run:
        assert _answer(run) == alone
