"""A job that is killed again and again loses nothing and repeats nothing."""

import json
import random
import subprocess
from pathlib import Path

from commands import EXAMPLES, kill, results, run_arguments, start, write_lines
from watching import wait_until

_KILLS = 20
_COPIES = 4
#: From before Python is up to the middle of the job.
_LONGEST_S = 6.0


def test_a_job_killed_twenty_times_ends_as_if_undisturbed(tmp_path: Path) -> None:
    source = copies_of_examples(tmp_path / "in.jsonl")
    undisturbed, output = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    finish(source, undisturbed)
    chance = random.Random(0)
    num_in_the_middle = 0
    for number in range(_KILLS):
        process = start(*arguments(source, output))
        if number % 2:
            wait_for_results(process, output)
        else:
            wait_a_while(process, chance.uniform(0, _LONGEST_S))
        num_in_the_middle += process.poll() is None and size_of(output) > 0
        kill(process)
    assert num_in_the_middle >= 5
    finish(source, output)
    assert results(output) == results(undisturbed)
    assert len(results(output)) == _COPIES * len(EXAMPLES.read_text().splitlines())


def copies_of_examples(path: Path) -> Path:
    examples = [json.loads(text) for text in EXAMPLES.read_text().splitlines()]
    return write_lines(
        path,
        [
            {**example, "custom_id": f"{example['custom_id']}-{copy}"}
            for copy in range(_COPIES)
            for example in examples
        ],
    )


def arguments(source: Path, output: Path) -> list[object]:
    return run_arguments(source, output, "--quiet", "--batch-size", "8")


def finish(source: Path, output: Path) -> None:
    process = start(*arguments(source, output))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def wait_for_results(process: subprocess.Popen[str], output: Path) -> None:
    before = size_of(output)
    wait_until(lambda: size_of(output) > before or process.poll() is not None)


def wait_a_while(process: subprocess.Popen[str], seconds: float) -> None:
    """Any moment will do; what the test asserts does not depend on which."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
