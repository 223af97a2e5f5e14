"""How far a job is, for a person: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

__all__ = ["Meter", "NoMeter", "Pace", "make_meter"]

_LOG_EVERY_S = 30.0


class Meter(Protocol):
    """Something that is told where a job stands."""

    def __enter__(self) -> "Meter": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, done: int, total: int, tokens: int | None) -> None:
        """``done`` of ``total`` requests; ``tokens`` produced so far in this run, if known."""
        ...


class NoMeter:
    """Says nothing."""

    def __enter__(self) -> "NoMeter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, total: int, tokens: int | None) -> None:
        pass


class Pace:
    """How fast a run is, over all of its time: answers end in bursts, so that any shorter time
    says little. What was done before it began does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._done_before: int | None = None

    @property
    def elapsed_s(self) -> float:
        return max(1e-9, self._clock() - self._began)

    def describe(self, done: int, total: int, tokens: int | None) -> str:
        """Tokens a second, if they are known, and the time that is left as soon as that can be
        guessed."""
        if self._done_before is None:
            self._done_before = done
        said = [] if tokens is None else [f"{tokens / self.elapsed_s:,.0f} tokens/s"]
        here = done - self._done_before
        if here and done != total:
            said.append(f"{_describe_time(self.elapsed_s * (total - done) / here)} left")
        return ", ".join(said)


def _describe_time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _BarMeter:
    """A live bar with the rate of tokens and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("answering"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, pace="")
        self._pace = Pace()

    def __enter__(self) -> "_BarMeter":
        self._pace = Pace()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int, tokens: int | None) -> None:
        pace = self._pace.describe(done, total, tokens)
        self._progress.update(self._task, completed=done, total=total, pace=pace)


class _LogMeter:
    """One line every half a minute, for output that goes to a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = Pace()
        self._told = 0.0

    def __enter__(self) -> "_LogMeter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, total: int, tokens: int | None) -> None:
        said = self._pace.describe(done, total, tokens)
        if self._pace.elapsed_s - self._told >= _LOG_EVERY_S:
            self._told = self._pace.elapsed_s
            self._console.print(", ".join(filter(None, (f"{done} of {total} answered", said))))


def make_meter(*, quiet: bool, console: Console | None = None) -> Meter:
    """The meter for where standard error goes. Whatever is said beside a bar goes to its
    ``console``, which knows where the bar is."""
    if quiet:
        return NoMeter()
    console = console or Console(stderr=True)
    return _BarMeter(console) if console.is_terminal else _LogMeter(console)
