"""Jobs in which all the time something dies or stops; the seed says in which layout."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from commands import EXAMPLES, call, glinthawk, results, write_lines
from layouts import LAYOUTS, Layout, Served, serve
from monkey import Monkey, bearers
from watching import wait_until

_LINES = 600
_TOP_K = 8
#: After so many deeds the job may end in peace.
_DEEDS = 8
_GIVE_UP_S = 1200
#: What is lost is soon back, however busy the machine is; who waits for so long waits in vain.
_AWAY_S = 300
#: How a run may end before all is answered: it was killed, or left without those that serve it.
_RESUMABLE = (-signal.SIGKILL, 2)

_Answers = dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Greedy lines and sampled ones, in turn, of few tokens: among thousands, one of thousands is
    chosen by the last bits of a float32, which other rows of its batch may change."""
    bodies = [json.loads(text)["body"] for text in EXAMPLES.read_text().splitlines()]
    lines = []
    for number in range(_LINES):
        body = dict(bodies[number % len(bodies)], max_tokens=8 + number % 40)
        body.update(temperature=number % 2, top_k=_TOP_K)
        url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        lines.append({"custom_id": str(number), "method": "POST", "url": url, "body": body})
    return write_lines(tmp_path_factory.mktemp("job") / "in.jsonl", lines)


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> Callable[[Layout], _Answers]:
    """The answers of one process, asked for when they are needed."""
    known: dict[tuple[object, ...], _Answers] = {}

    def answers(layout: Layout) -> _Answers:
        if layout.exact not in known:
            output = source.with_name(f"undisturbed-{len(known)}.jsonl")
            done = glinthawk(*_arguments(source, output, "--quiet", *layout.exact))
            assert done.returncode == 0, done.stderr
            known[layout.exact] = results(output)
        return known[layout.exact]

    return answers


@pytest.fixture(autouse=True)
def nothing_outlives_the_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Not even what a killed run had started."""
    mark = f"GLINTHAWK_CHAOS={uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    yield
    wait_until(lambda: not bearers(mark))


@pytest.mark.chaos
def test_a_disturbed_job_ends_as_if_undisturbed(
    tmp_path: Path, source: Path, undisturbed: Callable[[Layout], _Answers], seed: int
) -> None:
    monkey, layout = Monkey(seed), LAYOUTS[seed % len(LAYOUTS)]
    with serve(layout, tmp_path) as served, _telling(tmp_path, seed, layout, monkey):
        for number in count():
            output, events = tmp_path / f"out-{number}.jsonl", tmp_path / f"events-{number}.jsonl"
            more = ["--event-log", events, "--wait-for-workers", _AWAY_S, *served.arguments]
            words = _arguments(source, output, *more)
            _disturb(monkey, layout, served, output, words)
            assert results(output) == undisturbed(layout)
            assert len(output.read_text().splitlines()) == _LINES
            _check_events(events, output.with_name("job.log").read_text())
            if len(monkey.deeds) == _DEEDS:  # else the job was faster than the monkey
                break


@contextmanager
def _telling(folder: Path, seed: int, layout: Layout, monkey: Monkey) -> Iterator[None]:
    """Shown when the test fails; `make test-chaos ROUNDS=1 SEED=...` does it again."""
    try:
        yield
    finally:
        print(f"seed {seed}: {layout.name}", *monkey.deeds, sep="\n")  # noqa: T201
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log}", log.read_text(), sep="\n")  # noqa: T201


def _arguments(source: Path, output: Path, *more: object) -> list[object]:
    return ["run", "-m", "demo", "-i", source, "-o", output, "--batch-size", 8, *more]


def _check_events(events: Path, log: str) -> None:
    """The last scheduler decides again as it did, and its sums hold after every event. They end
    without their end where it was killed after its last answer: the run after it found no work."""
    if events.stat().st_size:
        replayed = call("replay", events)
        had_work = "every line has its result already" not in log.splitlines()[-1]
        if had_work or "the run was killed" not in replayed.stderr:
            assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def _disturb(
    monkey: Monkey, layout: Layout, served: Served, output: Path, words: list[object]
) -> None:
    """Run the command to its end, again if need be, while the monkey is at work: mostly when there
    are new answers, for much of a run's time passes before the first."""
    log = output.with_name("job.log")
    job, deadline, size = _start(log, words), time.monotonic() + _GIVE_UP_S, 0
    try:
        while job.poll() != 0:
            assert time.monotonic() < deadline, "the job has come to a standstill"
            if job.poll() is not None:
                assert job.returncode in _RESUMABLE, f"status {job.returncode}"
                assert "has come back" not in log.read_text(), "what was lost stayed away"
                job = _start(log, words)
            for process in served.processes:
                process.tend()
            with suppress(subprocess.TimeoutExpired):
                job.wait(monkey.pause_s())
            is_answering, size = _size(output) > size, _size(output)
            if len(monkey.deeds) < _DEEDS and (is_answering or monkey.is_rash()):
                here = [served.process.pid for served in served.processes]
                monkey.act([*layout.victims(job.pid), *here])
            else:
                monkey.rest()
    finally:
        monkey.relent()
        job.kill()
        job.wait()


def _size(output: Path) -> int:
    return output.stat().st_size if output.exists() else 0


def _start(log: Path, words: list[object]) -> subprocess.Popen[bytes]:
    """A run in a process group of its own, which says into ``log`` what happens to it."""
    command = [sys.executable, "-m", "glinthawk", *map(str, words)]
    with log.open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
