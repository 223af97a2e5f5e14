"""Jobs that are cut anywhere and killed any time end with exactly one result per line."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from job_files import line, results, run_job, write_input

_ROUNDS = 20
_CHILD = Path(__file__).with_name("killed_job.py")


def test_an_output_torn_at_any_byte_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Thousands of small jobs: that data reaches the disk is tested elsewhere.
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    items = [line("é", n=2, max_tokens=1), b"bad", line("b", logprobs=1, max_tokens=2), line("b")]
    source = write_input(tmp_path / "in", items)
    output = tmp_path / "out"
    run_job(source, output)
    whole, expected = output.read_bytes(), results(output)
    assert len(expected) == len(items)
    for size in range(len(whole)):
        output.write_bytes(whole[:size])
        run_job(source, output)
        assert results(output) == expected


def test_a_killed_job_resumes(tmp_path: Path) -> None:
    items = [line(f"id-{i}", n=1 + i % 3, max_tokens=4) if i % 10 else b"bad" for i in range(2000)]
    source = write_input(tmp_path / "in", items)
    run_job(source, tmp_path / "undisturbed")
    output = tmp_path / "out"
    moments = random.Random(7)
    for _ in range(_ROUNDS):
        _run_and_kill(source, output, answers=moments.randrange(300))
    subprocess.run(_command(source, output), check=True, capture_output=True)
    assert results(output) == results(tmp_path / "undisturbed")


def _command(source: Path, output: Path) -> list[str]:
    return [sys.executable, str(_CHILD), str(source), str(output)]


def _run_and_kill(source: Path, output: Path, answers: int) -> None:
    """Kill the job after that many answers; one that ends before is fine too."""
    with subprocess.Popen(_command(source, output), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(answers)
        child.send_signal(signal.SIGKILL)
        assert child.wait() in (0, -signal.SIGKILL)
