"""A job that is killed again and again loses nothing and repeats nothing."""

import random
from pathlib import Path

from commands import EXAMPLES, kill, results, run_arguments, start
from watching import wait_until

_KILLS = 20
#: A few lines of output: every kill comes in the middle of the job.
_MOST_BYTES = 2_500


def test_a_job_killed_twenty_times_ends_as_if_undisturbed(tmp_path: Path) -> None:
    undisturbed, output = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    finish(undisturbed)
    chance = random.Random(0)
    for _ in range(_KILLS):
        process = start(*arguments(output))
        target = size_of(output) + chance.randrange(1, _MOST_BYTES)
        wait_until(lambda: size_of(output) >= target or process.poll() is not None)  # noqa: B023
        assert process.poll() is None, process.communicate()
        kill(process)
    finish(output)
    assert results(output) == results(undisturbed)


def arguments(output: Path) -> list[object]:
    return run_arguments(EXAMPLES, output, "--quiet", "--batch-size", "4")


def finish(output: Path) -> None:
    process = start(*arguments(output))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
