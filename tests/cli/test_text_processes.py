"""Processes for text: the same results with them, none lost with one of them, none left behind."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from commands import EXAMPLES, call, glinthawk, kill, results, start, write_lines
from watching import wait_until


def test_results_are_the_same_with_processes_for_text(tmp_path: Path) -> None:
    source = jobs_lines(tmp_path / "in.jsonl", copies=1)
    outputs = [tmp_path / f"{count}.jsonl" for count in (0, 2)]
    for count, output in zip((0, 2), outputs, strict=True):
        done = glinthawk(*arguments(source, output, count))
        assert done.returncode == 1, done.stderr
    assert results(outputs[0]) == results(outputs[1])


def test_a_process_for_text_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    source, output = jobs_lines(tmp_path / "in.jsonl", copies=3), tmp_path / "out.jsonl"
    process = start(*arguments(source, output, 2))
    first, second = children(process)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.poll() is not None or output.stat().st_size > 0)
    with suppress(ProcessLookupError):  # the run is just ending, and it with it
        os.kill(second, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 1, said
    alone = tmp_path / "alone.jsonl"
    assert call(*arguments(source, alone, 0)).returncode == 1
    assert results(output) == results(alone)


def test_a_killed_run_leaves_no_process_and_no_lock_behind(tmp_path: Path) -> None:
    source, output = jobs_lines(tmp_path / "in.jsonl", copies=1), tmp_path / "out.jsonl"
    process = start(*arguments(source, output, 2))
    pids = children(process)
    kill(process)
    wait_until(lambda: not any(map(is_running, pids)))
    assert call(*arguments(source, output, 0)).returncode == 1


def jobs_lines(path: Path, copies: int) -> Path:
    """The examples, each with and without log-probabilities, and a line that is refused."""
    lines = [{"custom_id": "bad", "method": "GET"}]
    for copy in range(copies):
        for number, text in enumerate(EXAMPLES.read_text().splitlines()[:20]):
            asked = json.loads(text)
            asked["custom_id"] = f"{copy}-{number}"
            asked["body"] |= {"max_tokens": 8, "logprobs": bool(number % 2) or None}
            lines.append(asked)
    return write_lines(path, lines)


def arguments(source: Path, output: Path, count: int) -> list[object]:
    words = ["run", "-m", "demo", "-i", source, "-o", output, "--quiet"]
    return [*words, "--text-processes", count, "--batch-size", 8]


def children(process: subprocess.Popen[str]) -> list[int]:
    """Both processes for text, once they are there."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(path.read_text().split()) == 2)
    return [int(pid) for pid in path.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
