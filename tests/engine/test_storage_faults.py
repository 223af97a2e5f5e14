"""Workers with drives that die, and drives that fail, in the middle of a run."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerLost
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from zygote import children

_COUNT = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> dict[int, list[int]]:
    with open_run(EngineConfig(model=str(model), tier1_kv="64MiB", batch_size=4)) as run:
        return answer(run)


def answer(run: Run, then: Callable[[], None] = lambda: None) -> dict[int, list[int]]:
    """All answers; when three are there, something happens."""
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    prompts = [tuple((7 * i + j) % 190 + 3 for j in range(200 + i)) for i in range(_COUNT)]
    requests = [Request(i, prompt, params, 0, 40 - i) for i, prompt in enumerate(prompts)]
    answers = {}
    for sequence in run.engine.generate(requests):
        answers[sequence.request.id] = sequence.output
        if len(answers) == 3:
            then()
        run.engine.scheduler.validate()
    return answers


def config(model: Path, folder: Path, workers: int) -> EngineConfig:
    return EngineConfig(
        model=str(model),
        tier2=(f"local:{workers}",),
        worker_kv="640KiB",
        worker_storage=(f"{folder}:4MiB", f"{folder}:4MiB"),
        batch_size=4,
    )


def page_files(process: int) -> list[Path]:
    """As that process has them open; they have no other name."""
    files = Path(f"/proc/{process}/fd").iterdir()
    return [file for file in files if "glinthawk-pages-" in _target(file)]


def _target(file: Path) -> str:
    """Of a link that may go any moment."""
    with suppress(FileNotFoundError):
        return os.readlink(file)
    return ""


def test_a_killed_worker_costs_no_answer_and_leaves_no_file(
    model: Path, undisturbed: dict[int, list[int]], tmp_path: Path
) -> None:
    def kill() -> None:
        assert len(page_files(children()[-1])) == 2
        os.kill(children()[-1], signal.SIGKILL)

    with open_run(config(model, tmp_path, 2)) as run:
        assert answer(run, kill) == undisturbed
        while len(run.engine.scheduler.homes) < 2:
            assert answer(run) == undisturbed
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_drive_that_fails_moves_its_sequences(
    model: Path, undisturbed: dict[int, list[int]], tmp_path: Path
) -> None:
    def fail() -> None:
        for file in page_files(children()[-1]):
            os.truncate(file, 0)

    with open_run(config(model, tmp_path, 2)) as run:
        assert answer(run, fail) == undisturbed
        assert answer(run) == undisturbed
        assert len(run.engine.scheduler.homes) == 1


def test_without_another_worker_the_run_stops_and_says_why(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        for file in page_files(children()[-1]):
            os.truncate(file, 0)

    settings = replace(config(model, tmp_path, 1), wait_for_workers=1.0)
    with open_run(settings) as run, pytest.raises(WorkerLost, match="has come back"):
        answer(run, fail)
    # A write that is under way makes the file as long as before, without what was in it.
    told = f"reading from {tmp_path} failed|{tmp_path} gave back other bytes"
    assert re.search(told, caplog.text)
