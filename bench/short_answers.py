"""A job of short answers: what binds it, Tier 1 or the text around it?

A file of chat requests of about 20 + 2 tokens is answered by the demo model. First come the
ceilings: what Tier 1 does with ready token ids, and what one core does of the text alone. Then a
run in this process says where its thread spends its time, and `glinthawk run` is timed with and
without processes for text. All but the last are seconds in which the thread was at work, not those
of the clock: on a busy machine only they say something.
"""

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from glinthawk.core.config import EngineConfig
from glinthawk.core.sequence import Request
from glinthawk.core.source import resolve_model
from glinthawk.engine.run import Run, open_run
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.lines import Task
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_work import Answered, TextRules, Work, work_on

__all__ = ["run"]

_Write = Callable[[str], None]
_REQUESTS, _QUICK = 20_000, 1_000
_PROMPT_WORDS, _NEW = 9, 2
_WORDS = ("the", "river", "light", "wind", "house", "walks", "sees", "small", "dog", "red", "tree")
#: So that figures do not depend on what is measured at start.
_ROWS = 256


def run(
    write: _Write, *, quick: bool = False, requests: int | None = None, processes: int = 1
) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    count = requests or (_QUICK if quick else _REQUESTS)
    with TemporaryDirectory() as name:
        source = _write_input(Path(name) / "in.jsonl", count)
        with open_run(EngineConfig(model="demo", batch_size=_ROWS)) as running:
            ceilings, answered = _ceilings(running, source)
            for what, per_s in ceilings.items():
                write(f"ceiling: {what} {per_s:.0f} requests a second of its thread")
            parts = _parts(running, source, answered)
        write("microseconds of Tier 1's thread a request: " + json.dumps(parts))
        rows = [_measure(source, number) for number in (0, processes)]
        for row in rows:
            write("  ".join(f"{key} {value}" for key, value in row.items()))
    figures = {name: round(value) for name, value in ceilings.items()}
    write(json.dumps({"requests": count, "ceilings": figures, "parts_us": parts, "rows": rows}))


def _write_input(path: Path, count: int) -> Path:
    chance = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            said = " ".join(chance.choices(_WORDS, k=_PROMPT_WORDS))
            messages = [{"role": "user", "content": said}]
            line = {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"messages": messages, "max_tokens": _NEW, "ignore_eos": True},
            }
            file.write(json.dumps(line) + "\n")
    return path


def _ceilings(running: Run, source: Path) -> tuple[dict[str, float], list[Answered]]:
    """Requests a second of each part alone, and what was answered."""
    model = resolve_model("demo")
    do = work_on(Text.load(model), TextRules(running.limits, "demo", 0))
    lines = list(enumerate(source.read_bytes().splitlines(keepends=True)))
    do(Work(lines=lines[:10]))  # the template is compiled
    read, reading_s = _timed(lambda: do(Work(lines=lines)))
    tasks = [task for task in read if isinstance(task, Task)]
    with _job(running, source) as job:
        ready = list(job.requests())
        sequences, tier1_s = _timed(lambda: list(running.engine.generate(ready)))
    answered = [(tasks[sequence.request.id], [sequence]) for sequence in sequences]
    _, writing_s = _timed(lambda: do(Work(answers=answered)))
    seconds = {"tier 1": tier1_s, "reading": reading_s, "writing": writing_s}
    return {what: len(lines) / taken for what, taken in seconds.items()}, answered


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and seconds that this thread was at work."""
    begun = time.thread_time()
    return call(), time.thread_time() - begun


@contextmanager
def _job(running: Run, source: Path) -> Iterator[Job]:
    output = source.with_name("out.jsonl")
    model = resolve_model("demo")
    text = Text.load(model)
    with Journal.open(source, output, {}, restart=True) as journal:
        eos_token_ids = text.eos_token_ids(model)
        yield Job(journal, text, running.limits, eos_token_ids, seed=0, model_name="demo")


def _parts(running: Run, source: Path, answered: list[Answered]) -> dict[str, int]:
    """Microseconds of a request, on the thread of a run that does all text work itself."""
    spent: defaultdict[str, float] = defaultdict(float)
    engine, tier1 = running.engine, running.tier1

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked_call(*arguments: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(*arguments)
            finally:
                spent[name] += time.thread_time() - begun

        return clocked_call

    with _job(running, source) as job:
        requests = _each(clocked("text in", partial(next, job.requests(), None)))
        tier1.poll = clocked("passes and sampling", tier1.poll)  # type: ignore[method-assign]
        finish = clocked("text out and journal", job.finish)
        begun = time.thread_time()
        with closing(engine.generate(requests, job.stop_found, job.tick)) as sequences:
            for sequence in sequences:
                finish(sequence)
        total = time.thread_time() - begun
        del tier1.poll
    spent["engine and scheduler"] = total - sum(spent.values())
    return {name: round(1e6 * taken / len(answered)) for name, taken in spent.items()}


def _each(ask: Callable[[], Request | None]) -> Iterator[Request]:
    while (request := ask()) is not None:
        yield request


def _measure(source: Path, processes: int) -> dict[str, Any]:
    """A run of its own."""
    stats = source.with_name("stats.json")
    words = ["run", "-m", "demo", "-i", source, "-o", source.with_name(f"out-{processes}.jsonl")]
    words += ["--text-processes", processes, "--batch-size", _ROWS, "--stats-json", stats]
    command = [sys.executable, "-m", "glinthawk", *map(str, words), "--quiet"]
    subprocess.run(command, check=True)
    found = json.loads(stats.read_text())
    return {
        "text_processes": processes,
        "requests_per_s": round(found["requests"] / found["seconds"], 1),
        "tier1_busy": round(found["tier1_busy"], 3),
        "input_share": round(found["input_share"], 3),
    }
