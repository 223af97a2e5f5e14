"""How soon a job's speed follows when a worker joins in the midst of it, and when it leaves.

Tier 1 keeps no KV; the first worker has room for two sequences, the second one for a whole batch.
Tier 1 has one core, the workers have the other.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from glinthawk.bench.job_kinds import make_prompt
from glinthawk.bench.layouts import on_cores
from glinthawk.bench.random_models import write_shape
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run

__all__ = ["Followed", "run"]

_Write = Callable[[str], None]
_PROMPT, _NEW = 32, 224
_SCARCE, _AMPLE = "8MiB", "1GiB"
#: Speed is what was done in this time. It has followed when it is so near to what it comes to.
_WINDOW_S, _NEAR = 1.0, 0.9


@dataclass(frozen=True, slots=True)
class Followed:
    """Tokens a second before a change and after it, and seconds from the change until speed was
    nearly what it then stayed at."""

    change: str
    before: float
    after: float
    followed_s: float


@dataclass(slots=True)
class _Watch:
    """Tokens by time, after every step."""

    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def look(self, run: Run) -> None:
        self.times.append(time.perf_counter())
        self.tokens.append(run.engine.scheduler.counts.tokens)

    def rates(self, begin: float, end: float) -> list[tuple[float, float]]:
        """The ends of windows within that time, and tokens a second in each."""
        rates, first = [], 0
        for last, at in enumerate(self.times):
            while at - self.times[first] > _WINDOW_S:
                first += 1
            if begin + _WINDOW_S <= at <= end and last > first:
                seconds = at - self.times[first]
                rates.append((at, (self.tokens[last] - self.tokens[first]) / seconds))
        return rates


def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    phase_s = 10.0 if quick else 30.0
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name, on_cores(cores[:1]):
        folder, far = Path(name), cores[1:] or cores
        model = str(write_shape(folder, "M"))
        config = EngineConfig(
            model=model,
            load_format="dummy",
            tier2=(f"ipc://{folder}/first",),
            tier1_kv=0,
            joiners=f"ipc://{folder}/run",
            batch_size=32,
            batches_in_flight=2,
        )
        with _worker(far, f"ipc://{folder}/first", _SCARCE) as first:
            while not (folder / "first").exists() and first.poll() is None:
                time.sleep(0.1)
            with open_run(config) as running:
                rows = _change(running, folder, far, phase_s)
    for row in rows:
        write("  ".join(f"{name} {value}" for name, value in asdict(row).items()))
    write(json.dumps({"model": "M", "rows": [asdict(row) for row in rows]}))


@contextmanager
def _worker(
    cores: list[int], listen: str, memory: str, *more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "glinthawk", "worker", "--quiet", "--threads", "1"]
    with on_cores(cores):
        process = subprocess.Popen([*command, "--listen", listen, "--kv", memory, *more])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _change(running: Run, folder: Path, cores: list[int], phase_s: float) -> list[Followed]:
    """One phase before a second worker joins, one with it, and one when it has left."""
    scheduler, watch = running.engine.scheduler, _Watch()
    ends: list[float] = []

    def requests() -> Iterator[Request | None]:
        fresh = _endless()

        def until(over: Callable[[], bool]) -> Iterator[Request | None]:
            while not over():
                yield next(fresh) if len(scheduler.waiting) < 64 else None

        def phase() -> Iterator[Request | None]:
            end = time.perf_counter() + phase_s
            yield from until(lambda: time.perf_counter() > end)
            ends.append(time.perf_counter())

        yield from phase()
        own = f"ipc://{folder}/second"
        with _worker(cores, own, _AMPLE, "--join", f"ipc://{folder}/run") as second:
            yield from until(lambda: len(scheduler.homes) == 2)
            ends.append(time.perf_counter())
            yield from phase()
            second.send_signal(signal.SIGTERM)
            yield from until(lambda: len(scheduler.homes) == 1)
            yield from phase()
        running.engine.drain()

    for _ in running.engine.generate(requests(), after_step=lambda: watch.look(running)):
        pass
    begun, joined, left, over = ends
    return [
        _followed("joined", watch, (watch.times[0], begun), (joined, left)),
        _followed("left", watch, (joined, left), (left, over)),
    ]


def _endless() -> Iterator[Request]:
    params = SamplingParams(temperature=0, max_tokens=_NEW, ignore_eos=True)
    for number in count():
        yield Request(number, make_prompt(number, _PROMPT), params, number, _NEW)


def _followed(
    change: str, watch: _Watch, before: tuple[float, float], after: tuple[float, float]
) -> Followed:
    """What speed comes to is its median in the second half of a phase. It has followed where it
    first is as near to that as it is far from what it was."""
    old, new = (_settled(watch, *phase) for phase in (before, after))
    goal = old + _NEAR * (new - old)
    rates = watch.rates(*after)
    at = next((at for at, rate in rates if (rate >= goal) == (new >= old)), after[1])
    return Followed(change, round(old, 1), round(new, 1), round(at - after[0], 2))


def _settled(watch: _Watch, begin: float, end: float) -> float:
    return statistics.median(rate for _, rate in watch.rates((begin + end) / 2, end))
