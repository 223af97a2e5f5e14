"""Nodes and workers as Ray actors: they answer as the model does, whoever of them is killed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import EXAMPLES
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.engine.run import Run, open_run
from model_cases import Case
from monkey import actors, descendants
from watching import wait_until

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'glinthawk[ray]'")

from ray_machines import the_only_ray  # noqa: E402


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("model"), "llama")


def make_config(case: Case, **settings: Any) -> EngineConfig:
    settings = {"worker_kv": "1MiB", "batch_size": 4, "device": "cpu", **settings}
    return EngineConfig(model=str(case.path), cluster="ray", **settings)


@pytest.fixture(scope="module")
def run(case: Case) -> Iterator[Run]:
    """Two slices with two workers each, on a Ray that is started for them and ends with them."""
    before = descendants(os.getpid())
    with the_only_ray(), open_run(make_config(case, slices=2, workers_per_slice=2)) as opened:
        yield opened
    assert not ray.is_initialized()
    wait_until(lambda: descendants(os.getpid()) == before)


def answer(run: Run, case: Case, victim: int | None = None) -> dict[int, list[int]]:
    """All answers; after the third one, ``victim`` gets SIGKILL."""
    answers = {}
    for sequence in run.engine.generate(case.requests()):
        answers[sequence.request.id] = sequence.output
        if len(answers) == 3 and victim is not None:
            os.kill(victim, signal.SIGKILL)
        run.engine.scheduler.validate()
    return answers


def test_two_slices_with_two_workers_each_answer_as_the_model_does(run: Run, case: Case) -> None:
    assert len(run.tier1.homes()) == 2
    assert len(actors(os.getpid(), "NodeActor")) == 2
    assert len(actors(os.getpid(), "WorkerActor")) == 4
    assert answer(run, case) == case.expected()


@pytest.mark.parametrize("kind", ["NodeActor", "WorkerActor"])
def test_a_killed_actor_costs_no_answer_and_comes_back(run: Run, case: Case, kind: str) -> None:
    before = actors(os.getpid(), kind)
    assert answer(run, case, victim=before[-1]) == case.expected()
    while len(run.engine.scheduler.homes) < 2:
        assert answer(run, case) == case.expected()
    assert len(actors(os.getpid(), kind)) == len(before)
    assert before[-1] not in actors(os.getpid(), kind)


def test_a_cluster_without_room_is_named(
    run: Run, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glinthawk.launch.ray_cluster._PLACE_S", 0.5)
    config = make_config(case, worker_kv="100TiB")
    with pytest.raises(UsageError, match="no room for 1 nodes and 1 workers"), open_run(config):
        pass
    assert ray.is_initialized(), "the run's Ray, which another one may use"
    assert answer(run, case) == case.expected()


def test_a_gpu_that_no_machine_has_is_named(run: Run, case: Case) -> None:
    config = make_config(case, device="cuda")
    with pytest.raises(UsageError, match="no GPU in the Ray cluster"), open_run(config):
        pass
    assert answer(run, case) == case.expected()


def test_another_runs_own_cluster_is_not_joined(run: Run) -> None:
    """Its processes are here to be seen; it ends when that run does."""
    from glinthawk.launch.ray_cluster import find_running

    assert find_running() is None


def test_a_cluster_that_was_started_here_is_joined_while_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glinthawk.launch.ray_cluster import find_running

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert find_running() == address
    assert find_running() is None


def test_a_named_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from glinthawk.launch.ray_cluster import find_running

    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert find_running() == address
    with pytest.raises(UsageError, match=f"RAY_ADDRESS={address}"):
        find_running()


def test_rays_folder_goes_even_with_a_killed_run() -> None:
    script = """
from glinthawk.launch.ray_cluster import own_folder
with own_folder() as folder:
    print(folder, flush=True)
    input()
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.kill()
    wait_until(lambda: not folder.exists())


@pytest.mark.parametrize(
    ("hosts", "count", "share"),
    [([8], 2, 4), ([4, 4, 4], 4, 2), ([64, 8], 2, 32), ([2], 6, 0.3333), ([1, 1], 3, 0.5)],
)
def test_cpus_are_shared_so_that_all_find_room(
    hosts: list[float], count: int, share: float
) -> None:
    from glinthawk.launch.ray_cluster import share_cpus

    assert share_cpus(hosts, count) == share


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['ray'] = None; from glinthawk.cli.main import main; main()"
    command = [
        "run",
        "-m",
        "demo",
        "-i",
        EXAMPLES,
        "-o",
        tmp_path / "out.jsonl",
        "--cluster",
        "ray",
    ]
    done = subprocess.run(
        [sys.executable, "-c", hidden, *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.removeprefix("loading demo\n") == (
        "glinthawk: --cluster ray needs Ray: pip install 'glinthawk[ray]'\n"
    )
