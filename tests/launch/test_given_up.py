"""What dies over and over is given up: a run goes on without it if it can, and ends at once, with
its last words, if it cannot."""

import os
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from commands import call, examples, results
from families import make_model
from frail import LAST_WORDS, MOST_DEATHS, make_frail
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerLost
from glinthawk.engine.run import Run, open_run
from glinthawk.launch.local_processes import LocalProcesses
from interrupted_runs import answer, config, requests
from watching import wait_until
from zygote import children

_FOR_EVER_S = 1e9
_RESUME = "run the same command again to resume"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> dict[int, list[int]]:
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB", batch_size=4)) as run:
        return answer(run)


@pytest.fixture
def poison(tmp_path: Path) -> Path:
    return tmp_path / "poison"


def _num_deaths(caplog: pytest.LogCaptureFixture) -> int:
    """So far, of which the user was told with the last words."""
    return sum(LAST_WORDS in message for message in caplog.messages)


def _poison_in_mid_run(run: Run, poison: Path, when: str) -> int:
    """How many answers there were before the run ended; it ends by an error."""
    answered = 0
    for _ in run.engine.generate(requests(24)):
        answered += 1
        if answered == 3:
            poison.write_text(when)
            for process in children() if "start" in when else ():
                os.kill(process, signal.SIGKILL)
    return answered


def test_without_a_worker_that_dies_at_its_first_rows_the_run_goes_on(
    model: Path,
    undisturbed: dict[int, list[int]],
    poison: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It opens each time, which is no work."""
    make_frail(monkeypatch, poison, num_sound=1)
    with open_run(config(model, "local:2")) as run:
        poison.write_text("worker at work")
        while _num_deaths(caplog) < MOST_DEATHS:
            assert answer(run) == undisturbed
        assert answer(run) == undisturbed
        assert run.engine.scheduler.homes == [1]
        assert not run.tier1.is_expecting
    assert _num_deaths(caplog) == MOST_DEATHS
    given_up = next(text for text in reversed(caplog.messages) if LAST_WORDS in text)
    assert given_up.endswith("died 3 times without having worked, and is not started again")


@pytest.mark.parametrize("when", ["worker at start", "worker at work"])
def test_without_any_other_the_run_ends_at_once_and_says_why(
    model: Path, poison: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    make_frail(monkeypatch, poison)
    settings = replace(config(model, "local:1"), wait_for_workers=_FOR_EVER_S)
    with (
        open_run(settings) as run,
        pytest.raises(WorkerLost, match=f"no worker comes back .*{LAST_WORDS}; .*{_RESUME}"),
    ):
        _poison_in_mid_run(run, poison, when)


def test_what_is_answered_is_kept_and_the_same_command_resumes_it(
    tmp_path: Path, poison: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_frail(monkeypatch, poison)
    source, output = examples(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    words = ["run", "-m", "demo", "-i", source, "--dtype", "float32", "--batch-size", 4]
    words += ["--wait-for-workers", _FOR_EVER_S, "--tier2", "local:1", "--worker-kv", "64MiB"]

    def spoil() -> None:
        wait_until(lambda: output.exists() and output.read_text().count("\n") > 3)
        poison.write_text("worker at work")

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    ended = call(*words, "-o", output)
    spoiler.join()
    assert ended.returncode == 2
    assert LAST_WORDS in ended.stderr
    assert ended.stderr.endswith(f"{_RESUME}\n")
    kept = results(output)
    assert 3 < len(kept) < 40
    poison.unlink()
    assert call(*words, "-o", output).returncode == 0
    assert call(*words, "-o", tmp_path / "undisturbed.jsonl").returncode == 0
    assert results(output) == results(tmp_path / "undisturbed.jsonl")
    assert kept.items() <= results(output).items()


@pytest.mark.parametrize("when", ["node at start", "node at work"])
def test_without_a_node_the_run_ends_at_once(
    model: Path, tmp_path: Path, poison: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Though another one lives: nothing goes on without a slice."""
    make_frail(monkeypatch, poison, num_sound=1)
    node = "[[nodes]]\naddress = 'local'\ntier1_kv = '4MiB'\n"
    with (
        open_run(_on_nodes(model, tmp_path, node * 2)) as run,
        pytest.raises(
            WorkerLost, match=f"(?s)node 2 does not come back: .*{LAST_WORDS}; .*{_RESUME}"
        ),
    ):
        _poison_in_mid_run(run, poison, when)


def test_a_node_that_dies_once_is_started_again_and_loads_its_slice(
    model: Path, undisturbed: dict[int, list[int]], tmp_path: Path
) -> None:
    node = "[[nodes]]\naddress = 'local'\ntier1_kv = '4MiB'\n"
    with open_run(_on_nodes(model, tmp_path, node * 2)) as run:
        assert answer(run, kill_after=3) == undisturbed


def test_without_the_workers_of_a_node_it_does_so_too(
    model: Path,
    tmp_path: Path,
    poison: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are the node's to start and to bury: it tells the run."""
    make_frail(monkeypatch, poison)
    node = "[[nodes]]\naddress = 'local'\nworkers = ['local:1']\nworker_kv = '4MiB'\n"
    with (
        open_run(_on_nodes(model, tmp_path, node)) as run,
        pytest.raises(WorkerLost, match=f"no worker comes back .*: node 1: .*{LAST_WORDS}; "),
    ):
        _poison_in_mid_run(run, poison, "worker at work")
    assert "node 1: home 1 does not come back" in caplog.text


def _on_nodes(model: Path, folder: Path, nodes: str) -> EngineConfig:
    (folder / "cluster.toml").write_text(nodes)
    return EngineConfig(
        model=str(model),
        cluster=str(folder / "cluster.toml"),
        batch_size=4,
        wait_for_workers=_FOR_EVER_S,
    )


def test_who_waits_in_vain_is_told_of_what_has_died(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = partial(LocalProcesses, clock=lambda: 0.0)
    monkeypatch.setattr("glinthawk.launch.local_processes.LocalProcesses", standing)
    settings = replace(config(model, "local:1"), wait_for_workers=0.5)
    words = r"no worker has come back for 0.5 s \(worker 1 was killed by signal 9 .*\); start"
    with open_run(settings) as run, pytest.raises(WorkerLost, match=words):
        answer(run, kill_after=2)
