"""Workers that die in the middle of a run: nothing is lost while a home is left."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerLost
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.runtime.run import Run, open_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def requests(count: int) -> list[Request]:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    prompts = [tuple(range(3 + i, 9 + 2 * i)) for i in range(count)]
    return [Request(i, prompt, params, 0, 40 - i) for i, prompt in enumerate(prompts)]


def answer(run: Run, *, kill_after: int | None = None) -> dict[int, list[int]]:
    """All answers; once ``kill_after`` are there, the youngest child gets SIGKILL."""
    answers = {}
    for sequence in run.engine.generate(requests(24)):
        answers[sequence.id] = sequence.output
        if len(answers) == kill_after:
            os.kill(max(_children()), signal.SIGKILL)
        run.engine.scheduler.validate()
    return answers


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def config(model: Path, places: str, tier1_kv: str = "0") -> EngineConfig:
    return EngineConfig(
        model=str(model), tier2=(places,), tier1_kv=tier1_kv, worker_kv="4MiB", batch_size=4
    )


def test_a_killed_worker_costs_no_answer_and_comes_back(model: Path) -> None:
    with open_run(config(model, "local:2")) as run:
        undisturbed = answer(run)
    with open_run(config(model, "local:2")) as run:
        assert answer(run, kill_after=3) == undisturbed
        while len(run.engine.scheduler.homes) < 2:
            assert answer(run) == undisturbed
    assert sorted(undisturbed) == list(range(24))


def test_beside_kv_on_tier_1_neither(model: Path) -> None:
    with open_run(config(model, "local:2")) as run:
        undisturbed = answer(run)
    with open_run(config(model, "local:2", "100KiB")) as run:
        assert answer(run, kill_after=3) == undisturbed


def test_without_a_home_left_the_job_waits_for_one(model: Path) -> None:
    with open_run(config(model, "local:1")) as run:
        undisturbed = answer(run)
        assert answer(run, kill_after=2) == undisturbed


def test_when_none_comes_back_the_run_stops_and_says_so(model: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/worker"
    command = [sys.executable, "-m", "glinthawk", "worker", "--quiet", "--listen", address]
    worker = subprocess.Popen([*command, "--kv", "4MiB"])
    settings = replace(config(model, address), wait_for_workers=0.5)
    try:
        with open_run(settings) as run, pytest.raises(WorkerLost, match="no worker has come back"):
            answer(run, kill_after=2)
    finally:
        worker.kill()
        worker.wait()
