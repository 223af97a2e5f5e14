"""Ray loses machines, and actors die over and over: answers are the model's as long as every slice
has a worker that is left, or comes back, wherever that is."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from frail import LAST_WORDS, MOST_DEATHS
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerLost
from glinthawk.engine.run import Run, open_run
from model_cases import Case
from monkey import descendants
from watching import wait_until

pytest.importorskip("ray", reason="Ray is an extra: pip install 'glinthawk[ray]'")

import ray_machines
from glinthawk.launch import ray_cluster, revival
from glinthawk.launch.ray_actors import Actors
from ray_machines import add_machine, first_machine, the_only_ray

_FOR_EVER_S = 1e9
_KV = 1 << 20
#: Of Ray's machines: room for one worker, for two, or for none.
_ONE, _TWO, _NONE = _KV * 3 // 2, _KV * 5 // 2, _KV // 2


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(autouse=True)
def ends_all_processes() -> Iterator[None]:
    before = descendants(os.getpid())
    yield
    wait_until(lambda: descendants(os.getpid()) == before)


def make_config(case: Case, workers: int) -> EngineConfig:
    return EngineConfig(
        model=str(case.path),
        cluster="ray",
        slices=1,
        workers_per_slice=workers,
        worker_kv=_KV,
        batch_size=4,
        device="cpu",
        wait_for_workers=_FOR_EVER_S,
    )


def answer(run: Run, case: Case, after_three: Callable[[], object]) -> dict[int, list[int]]:
    """All answers; once three are there, something happens."""
    answers = {}
    for sequence in run.engine.generate(case.requests()):
        answers[sequence.request.id] = sequence.output
        if len(answers) == 3:
            after_three()
        run.engine.scheduler.validate()
    return answers


def nothing() -> None:
    """Happens."""


def test_a_worker_whose_machine_is_lost_is_missed_until_ray_has_room_for_it(case: Case) -> None:
    """On a third machine, where it listens at another address."""
    with first_machine(cpus=2, memory=_ONE) as cluster:
        second = add_machine(cluster, "127.0.0.2", cpus=1, memory=_ONE)
        with open_run(make_config(case, workers=2)) as run:
            lose = partial(cluster.remove_node, second, allow_graceful=False)
            assert answer(run, case, lose) == case.expected()
            assert answer(run, case, nothing) == case.expected()
            assert len(run.engine.scheduler.homes) == 1
            add_machine(cluster, "127.0.0.3", cpus=1, memory=_ONE)
            while len(run.engine.scheduler.homes) < 2:
                assert answer(run, case, nothing) == case.expected()
            assert _hosts(run) == [cluster.head_node.node_ip_address, "127.0.0.3"]
            assert answer(run, case, nothing) == case.expected()
            assert len(run.engine.scheduler.homes) == 2


def _hosts(run: Run) -> list[str]:
    """Where the first node looks for its workers."""
    (stage,) = run.tier1._stages  # type: ignore[attr-defined]
    return sorted(
        (worker.partition("://")[2].partition(":")[0] for worker in stage.load.config.tier2),
        reverse=True,
    )


def test_a_node_whose_machine_is_lost_loads_its_slice_on_another(case: Case) -> None:
    with first_machine(cpus=1, memory=_ONE) as cluster:
        second = add_machine(cluster, "127.0.0.2", cpus=1, memory=_NONE)
        with open_run(make_config(case, workers=1)) as run:
            (stage,) = run.tier1._stages  # type: ignore[attr-defined]
            assert stage.address.host == "127.0.0.2"

            def replace_machine() -> None:
                cluster.remove_node(second, allow_graceful=False)
                add_machine(cluster, "127.0.0.3", cpus=1, memory=_NONE)

            assert answer(run, case, replace_machine) == case.expected()
            assert stage.address.host == "127.0.0.3"


@contextmanager
def frail_run(case: Case, poison: Path, bundles: list[int], workers: int = 1) -> Iterator[Run]:
    """On a Ray of its own. Actors in ``bundles``, of which the node's is the first, are frail, and
    started again without a pause."""
    with pytest.MonkeyPatch.context() as patch, the_only_ray():
        patch.setenv("PYTHONPATH", str(Path(ray_machines.__file__).parent))  # where actors find it
        start = ray_machines.frail_start(ray_cluster._start, poison, bundles)
        patch.setattr(ray_cluster, "_start", start)
        ticks = itertools.count(step=60)
        patch.setattr(ray_cluster, "Actors", partial(Actors, clock=partial(next, ticks)))
        patch.setattr(revival, "_MOST_DEATHS", MOST_DEATHS)
        with open_run(make_config(case, workers)) as run:
            yield run


def fall(poison: Path, when: str, run: Run) -> None:
    """From now on; what falls at its start must die once for that."""
    poison.write_text(when)
    if when == "node at start":
        seat = run.tier1._processes._processes._seats[0]  # type: ignore[attr-defined]
        ray_cluster.ray.kill(seat.actor)


def test_an_actor_that_dies_over_and_over_can_be_missed_beside_another(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poison = tmp_path / "poison"
    with frail_run(case, poison, bundles=[2], workers=2) as run:
        poison.write_text("worker at work")
        while sum(LAST_WORDS in message for message in caplog.messages) < MOST_DEATHS:
            assert answer(run, case, nothing) == case.expected()
        assert answer(run, case, nothing) == case.expected()
        assert run.engine.scheduler.homes == [1]
    assert f"worker 2 of node 1 ended; its last words: RuntimeError: {LAST_WORDS}" in caplog.text
    assert "died 3 times without having worked, and is not started again" in caplog.text


@pytest.mark.parametrize(
    ("when", "bundle", "words"),
    [
        ("worker at work", 1, "no worker comes back .*worker 1 of node 1 ended; .*"),
        ("node at start", 0, "node 1 does not come back: node 1 ended; .*"),
    ],
)
def test_without_another_the_run_ends_at_once_and_says_why(
    case: Case, tmp_path: Path, when: str, bundle: int, words: str
) -> None:
    poison = tmp_path / "poison"
    error = f"{words}{LAST_WORDS}; mend that and run the same command again to resume"
    with frail_run(case, poison, [bundle]) as run, pytest.raises(WorkerLost, match=error):
        answer(run, case, partial(fall, poison, when, run))
