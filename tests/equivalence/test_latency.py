"""A longer link costs time at most: the answers are those of the model's own forward."""

from pathlib import Path

import pytest

from cluster import open_cluster
from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.tier1.model.loader import LoadedModel, load_model

_NEW = 6
_MS = [2, 10, 50, pytest.param(100, marks=pytest.mark.matrix)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = make_model(tmp_path_factory.mktemp("model"), "llama")
    return load_model(EngineConfig(model=str(path)))


def requests() -> list[Request]:
    """Prompts of unequal length, some behind a common prefix of whole pages."""
    params = SamplingParams(temperature=0, max_tokens=_NEW, ignore_eos=True)
    common = tuple(range(3, 3 + 40))
    prompts = [(*(common if i % 3 == 0 else ()), *range(50 + i, 52 + 3 * i)) for i in range(12)]
    return [Request(i, prompt, params, 0, _NEW) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def expected(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[int]]:
    """On one tier, which equals the model's own forward (test_families)."""
    folder = tmp_path_factory.mktemp("one-tier")
    with open_cluster(loaded, folder, workers=0, tier1_pages=64) as run:
        return {s.id: s.output for s in run.engine.generate(requests())}


@pytest.mark.parametrize("ms", _MS)
def test_answers_do_not_depend_on_the_length_of_the_link(
    loaded: LoadedModel, expected: dict[int, list[int]], tmp_path: Path, ms: int
) -> None:
    with open_cluster(
        loaded,
        tmp_path,
        scheme="ipc",
        workers=2,
        batches_in_flight=4,
        batch_size=3,
        delay_s=1e-3 * ms,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(requests())}
        run.engine.scheduler.validate()
    assert answers == expected
