"""A job that is killed again and again loses nothing and repeats nothing."""

import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from commands import (
    EXAMPLES,
    call,
    kill,
    results,
    run_arguments,
    start,
    write_lines,
)
from watching import wait_until

MORE = {"custom_id": "more", "method": "POST", "url": "/v1/completions", "body": {"prompt": "A"}}
#: From before Python is up to the middle of the job.
_LONGEST_S = 6.0


@pytest.mark.parametrize(
    ("kills", "copies"), [(6, 2), pytest.param(20, 4, marks=pytest.mark.matrix)]
)
def test_a_job_killed_again_and_again_ends_as_if_undisturbed(
    tmp_path: Path, kills: int, copies: int
) -> None:
    source = copies_of_examples(tmp_path / "in.jsonl", copies)
    undisturbed, output = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    finish(source, undisturbed)
    chance = random.Random(0)
    num_in_the_middle = 0
    for number in range(kills):
        process = start(*arguments(source, output))
        wait_for_results(process, output, None if number % 2 else chance.uniform(0, _LONGEST_S))
        num_in_the_middle += process.poll() is None and size_of(output) > 0
        kill(process)
    assert num_in_the_middle >= kills // 4
    finish(source, output)
    assert results(output) == results(undisturbed)
    assert len(results(output)) == copies * len(EXAMPLES.read_text().splitlines())


def test_a_batch_invariant_job_may_go_on_in_any_layout(tmp_path: Path) -> None:
    """The same bits in bfloat16, where other batches are other products: killed twice, and each
    time gone on with elsewhere; types of numbers may not change."""
    source, output = copies_of_examples(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    exact = ["run", "-m", "demo", "-i", source, "--quiet", "--batch-invariant"]
    exact += ["--dtype", "bfloat16"]
    alone = tmp_path / "alone.jsonl"
    assert call(*exact, "-o", alone).returncode == 0
    exact += ["-o", output]
    for more in (["--tier2", "local:2", "--batch-size", 3], ["--batch-size", 5]):
        process = start(*exact, *more)
        wait_for_results(process, output)
        kill(process)
    done = call(*exact, "--tier2", "local:2", "--split-attention", "heads")
    assert done.returncode == 0, done.stderr
    assert results(output) == results(alone)
    write_lines(source, [*map(json.loads, source.read_text().splitlines()), MORE])
    other = call(*[word for word in exact if word != "--batch-invariant"])
    assert other.returncode == 2
    assert "batch_invariant was" in other.stderr


def copies_of_examples(path: Path, copies: int) -> Path:
    examples = [json.loads(text) for text in EXAMPLES.read_text().splitlines()]
    return write_lines(
        path,
        [
            {**example, "custom_id": f"{example['custom_id']}-{copy}"}
            for copy in range(copies)
            for example in examples
        ],
    )


def arguments(source: Path, output: Path) -> list[object]:
    return run_arguments(source, output, "--quiet", "--batch-size", "8")


def finish(source: Path, output: Path) -> None:
    done = call(*arguments(source, output))
    assert done.returncode == 0, done.stderr


def wait_for_results(
    process: subprocess.Popen[str], output: Path, most_s: float | None = None
) -> None:
    """Until there are new results, or for ``most_s``: any moment will do, and what the test
    asserts does not depend on which."""
    before, begun = size_of(output), time.monotonic()

    def is_time() -> bool:
        is_late = most_s is not None and time.monotonic() - begun > most_s
        return is_late or size_of(output) > before or process.poll() is not None

    wait_until(is_time)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
