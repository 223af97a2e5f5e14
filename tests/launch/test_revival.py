"""What dies at its start is started again less and less often, and in the end no more."""

import logging
import os
import signal
from pathlib import Path

import pytest

from glinthawk.launch.local_processes import LocalProcesses
from glinthawk.launch.revival import Fate, Revival


def _wait(processes: LocalProcesses) -> int:
    """Until the one process there is has ended; its number."""
    (process,) = processes._processes
    process.wait(60)
    return process.pid


def test_a_process_that_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    starts: list[float] = []
    with LocalProcesses("worker", 1, ["--kv", "nonsense"], clock=lambda: now) as processes:
        known = _wait(processes)
        while now < 300:
            processes.revive()
            (process,) = processes._processes
            if process.pid != known:
                starts.append(now)
                known = _wait(processes)
            now += 0.5
    waits = [later - sooner for sooner, later in zip([0.0, *starts], starts, strict=False)]
    assert len(starts) == 7
    assert waits == sorted(waits)
    assert waits[0] <= 1
    assert 30 <= waits[-1] <= 31
    assert "nonsense" in caplog.text
    assert caplog.messages[-1].endswith(
        "died 8 times without having worked, and is not started again"
    )
    assert len(caplog.messages) == 8


def test_one_that_works_between_its_deaths_is_started_soon_each_time() -> None:
    revival = Revival()
    for number in range(100):
        revival.died(float(number), "it fell")
        assert revival.is_due(number + 0.5)
        assert not revival.is_over
        revival.started()
        assert revival.fate == Fate("it fell", is_over=False)
        revival.worked()
        assert revival.fate is None


def test_what_it_did_before_it_died_is_no_news() -> None:
    """It may be told late."""
    revival = Revival()
    for number in range(8):
        revival.died(60.0 * number, f"death {number}")
        revival.worked()
        revival.started()
    assert revival.is_over
    assert revival.fate == Fate("death 7", is_over=True)


def test_a_kill_is_called_one(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with LocalProcesses("worker", 1, ["--kv", "1MiB"]) as processes:
        os.kill(processes._processes[0].pid, signal.SIGKILL)
        _wait(processes)
        with caplog.at_level(logging.WARNING):
            processes.revive()
    assert "worker 1 was killed by signal 9 (out of memory?)" in caplog.text
