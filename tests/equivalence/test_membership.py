"""Workers join a run that is under way, and leave it by SIGTERM: answers are the model's."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from glinthawk.core.config import EngineConfig
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from glinthawk.wire.keys import Identity
from model_cases import Case
from pipeline_nodes import waiting_for

_PATIENCE_S = 60


@contextmanager
def _worker(listen: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker that is started by hand; one that lives on ends with the block."""
    command = [sys.executable, "-m", "glinthawk", "worker", "--kv", "1MiB", "--threads", "1"]
    process = subprocess.Popen([*command, "--quiet", "--listen", listen, *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _numbered(case: Case) -> Iterator[Request]:
    """The case's requests, over and over, each with a number of its own."""
    every, count = list(case.requests()), 0
    while True:
        for request in every:
            yield replace(request, id=count)
            count += 1


def _wait_for(run: Run, homes: list[int]) -> Iterator[None]:
    while run.engine.scheduler.homes != homes:
        yield None


def test_one_worker_joins_and_another_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(tmp_path, "llama")
    identity = tmp_path / "identity.json"
    Identity.load(identity)
    config = EngineConfig(
        model=str(case.path),
        tier2=(f"ipc://{tmp_path}/first",),
        joiners="tcp://127.0.0.1:0",
        identity=str(identity),
        batch_size=4,
        batches_in_flight=2,
        device="cpu",
    )
    listen = f"ipc://{tmp_path}/first"
    with _worker(listen) as first, waiting_for(tmp_path / "first"), open_run(config) as run:
        (place,) = re.findall(r"--join '(.*)'", caplog.text)
        own = ("--join", place, "--identity", str(identity))
        with _worker("tcp://127.0.0.1:0", *own) as second:
            answers = _answer_while_they_change(run, case, first)
            assert second.poll() is None
        assert first.wait(_PATIENCE_S) == 0
    expected = case.expected()
    assert answers == {number: expected[number % len(expected)] for number in answers}
    assert len(answers) >= len(expected)
    assert run.engine.scheduler.counts.repeated_tokens > 0


def test_a_worker_of_a_pipeline_leaves(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama")
    places = [f"ipc://{tmp_path}/{name}" for name in ("first", "second")]
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(f"[[nodes]]\nworkers = {places}\n")
    config = EngineConfig(model=str(case.path), cluster=str(cluster), tier1_kv=0, batch_size=4)
    with (
        _worker(places[0]) as first,
        waiting_for(tmp_path / "first"),
        _worker(places[1]),
        waiting_for(tmp_path / "second"),
        open_run(config) as run,
    ):
        answers = _answer_while_they_change(run, case, first)
        assert first.wait(_PATIENCE_S) == 0
    expected = case.expected()
    assert answers == {number: expected[number % len(expected)] for number in answers}


def _answer_while_they_change(
    run: Run, case: Case, first: "subprocess.Popen[bytes]"
) -> dict[int, list[int]]:
    """All answers: of a few requests at the first home, of some when there is another one, and of
    as many as it takes until the first one, which is asked to, has gone."""
    scheduler = run.engine.scheduler

    def requests() -> Iterator[Request | None]:
        fresh = _numbered(case)
        yield from (next(fresh) for _ in range(5))
        yield from _wait_for(run, [1, 2])
        yield from (next(fresh) for _ in case.prompts)
        first.send_signal(signal.SIGTERM)
        while 1 in scheduler.homes:
            yield next(fresh) if len(scheduler.waiting) < 9 else None

    answers = {}
    for sequence in run.engine.generate(requests()):
        answers[sequence.request.id] = sequence.output
        scheduler.validate()
    return answers


def test_a_worker_whose_sequences_nobody_has_ends_at_once(tmp_path: Path) -> None:
    place = tmp_path / "alone"
    with _worker(f"ipc://{place}") as alone, waiting_for(place):
        alone.send_signal(signal.SIGTERM)
        assert alone.wait(_PATIENCE_S) == 0
