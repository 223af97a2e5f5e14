"""Jobs in which all the time something dies or stops; the seed says in which layout."""

import json
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from commands import EXAMPLES, glinthawk, kill, results, start, write_lines
from monkey import Monkey, Supervised, descendants, worker_behind_relay

_LINES = 300
#: After so many deeds the job may end in peace.
_DEEDS = 8
_GIVE_UP_S = 900


@dataclass(frozen=True)
class Layout:
    """Where KV is: at two workers behind links that may be cut, and at what ``more`` says."""

    name: str
    more: tuple[object, ...] = ()
    kv: str = "64MiB"
    has_drives: bool = False
    is_pipeline: bool = False


LAYOUTS = [
    Layout("two nodes, three workers each", is_pipeline=True),
    Layout("workers", ("--tier2", "local:1", "--worker-kv", "64MiB")),
    Layout("heads", ("--split-attention", "heads")),
    Layout("hybrid", ("--tier1-kv", "2MiB")),
    Layout("drives", kv="1MiB", has_drives=True),
    Layout("x-cache", ("--xcache", 0.5)),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Greedy lines and sampled ones, in turn."""
    bodies = [json.loads(text)["body"] for text in EXAMPLES.read_text().splitlines()]
    lines = []
    for number in range(_LINES):
        body = dict(bodies[number % len(bodies)], max_tokens=8 + number % 40)
        body["temperature"] = number % 2
        url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        lines.append({"custom_id": str(number), "method": "POST", "url": url, "body": body})
    return write_lines(tmp_path_factory.mktemp("job") / "in.jsonl", lines)


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> dict[str, object]:
    """The answers of one process."""
    output = source.with_name("undisturbed.jsonl")
    done = glinthawk(*_arguments(source, output))
    assert done.returncode == 0, done.stderr
    return dict(results(output))


@pytest.mark.chaos
def test_a_disturbed_job_ends_as_if_undisturbed(
    tmp_path: Path, source: Path, undisturbed: dict[str, object], seed: int
) -> None:
    monkey, layout = Monkey(seed), LAYOUTS[seed % len(LAYOUTS)]
    with ExitStack() as stack:
        links, others = [], []
        for name in ("a", "b"):
            worker = worker_behind_relay(tmp_path, name, *_drive(layout, tmp_path), kv=layout.kv)
            link, processes = stack.enter_context(worker)
            links.append(link)
            others += processes
        for output in (tmp_path / f"out-{number}.jsonl" for number in count()):
            _disturb(monkey, others, *_arguments(source, output, *_places(layout, tmp_path, links)))
            # Shown when the test fails; `make test-chaos ROUNDS=1 SEED=...` does it again.
            print(f"seed {seed}: {layout.name}", *monkey.deeds, sep="\n")  # noqa: T201
            assert results(output) == undisturbed
            assert len(output.read_text().splitlines()) == _LINES
            if len(monkey.deeds) == _DEEDS:  # else the job was faster than the monkey
                break


def _arguments(source: Path, output: Path, *more: object) -> list[object]:
    exact = ["--dtype", "float32", "--batch-size", 8, "--quiet"]
    return ["run", "-m", "demo", "-i", source, "-o", output, *exact, *more]


def _places(layout: Layout, folder: Path, links: list[str]) -> list[object]:
    if layout.is_pipeline:
        return ["--cluster", _write_cluster(folder / "cluster.toml", links)]
    return [word for link in links for word in ("--tier2", link)] + [*layout.more]


def _drive(layout: Layout, folder: Path) -> list[object]:
    return ["--storage", f"{folder}:64MiB"] if layout.has_drives else []


def _write_cluster(path: Path, links: list[str]) -> Path:
    """Nodes that are started by the run, each with two workers of its own and one behind a link."""
    entries = [f'[[nodes]]\nworkers = ["local:2", "{link}"]\nworker_kv = "64MiB"' for link in links]
    path.write_text("\n".join(entries))
    return path


def _disturb(monkey: Monkey, others: list[Supervised], *arguments: object) -> None:
    """Run the command to its end, again if need be, while the monkey is at work."""
    job, deadline = start(*arguments), time.monotonic() + _GIVE_UP_S
    try:
        while job.poll() != 0:
            assert time.monotonic() < deadline, "the job has come to a standstill"
            if job.poll() is not None:  # killed, or nothing to go on with: resume
                job.communicate()
                job = start(*arguments)
            for other in others:
                other.tend()
            with suppress(subprocess.TimeoutExpired):
                job.wait(monkey.pause_s())
            if len(monkey.deeds) < _DEEDS:
                here = [other.process.pid for other in others]
                monkey.act([job.pid, *descendants(job.pid), *here])
            else:
                monkey.relent()
    finally:
        monkey.relent()
        if job.poll() is None:
            kill(job)
        job.communicate()
