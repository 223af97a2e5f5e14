"""Nodes and workers as Ray actors: they answer as the model does, whoever of them is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_families import Case

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.runtime.run import Run, open_run
from monkey import descendants

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'glinthawk[ray]'")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def run(case: Case) -> Iterator[Run]:
    """Two slices with two workers each, on a Ray that is started for them and ends with them."""
    before = descendants(os.getpid())
    config = EngineConfig(
        model=str(case.path),
        cluster="ray",
        slices=2,
        workers_per_slice=2,
        worker_kv="1MiB",
        batch_size=4,
        device="cpu",
    )
    with open_run(config) as opened:
        yield opened
    assert not ray.is_initialized()
    assert descendants(os.getpid()) == before, "a process was left behind"


def actors(method: str) -> list[int]:
    """Processes of the actors that are in a call of ``method``."""
    title = f"ray::_Server.{method}".encode()
    found = [(Path(f"/proc/{pid}/cmdline"), pid) for pid in descendants(os.getpid())]
    return [pid for path, pid in found if path.read_bytes().startswith(title)]


def answer(run: Run, case: Case, victim: int | None = None) -> dict[int, list[int]]:
    """All answers; after the third one, ``victim`` gets SIGKILL."""
    answers = {}
    for sequence in run.engine.generate(case.requests()):
        answers[sequence.id] = sequence.output
        if len(answers) == 3 and victim is not None:
            os.kill(victim, signal.SIGKILL)
        run.engine.scheduler.validate()
    return answers


def test_two_slices_with_two_workers_each_answer_as_the_model_does(run: Run, case: Case) -> None:
    assert len(run.tier1.homes()) == 2
    assert len(actors("serve_node")) == 2
    assert len(actors("serve_worker")) == 4
    assert answer(run, case) == case.expected()


@pytest.mark.parametrize("method", ["serve_node", "serve_worker"])
def test_a_killed_actor_costs_no_answer_and_comes_back(run: Run, case: Case, method: str) -> None:
    before = actors(method)
    assert answer(run, case, victim=before[-1]) == case.expected()
    while len(run.engine.scheduler.homes) < 2:
        assert answer(run, case) == case.expected()
    assert len(actors(method)) == len(before)
    assert before[-1] not in actors(method)


def test_more_workers_than_there_is_room_for_are_refused(run: Run, case: Case) -> None:
    del run
    config = EngineConfig(model=str(case.path), cluster="ray", worker_kv="100TiB", device="cpu")
    with pytest.raises(UsageError, match="no room for 1 nodes and 1 workers"), open_run(config):
        pass
