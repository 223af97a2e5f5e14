"""How far a job is, for a person: a bar on a terminal, a line now and then in a log."""

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Meter", "NoMeter", "make_meter"]

_LOG_EVERY_S = 15.0


class Meter(Protocol):
    """Something that is told where a job stands."""

    def __enter__(self) -> "Meter": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, done: int, total: int, tokens: int) -> None:
        """``done`` of ``total`` requests; ``tokens`` produced so far in this run."""
        ...


class NoMeter:
    """Says nothing."""

    def __enter__(self) -> "NoMeter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, total: int, tokens: int) -> None:
        pass


class _BarMeter:
    """A live bar with the rate of tokens and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("answering"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, rate=0.0)
        self._began = time.monotonic()

    def __enter__(self) -> "_BarMeter":
        self._began = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int, tokens: int) -> None:
        rate = tokens / max(1e-9, time.monotonic() - self._began)
        self._progress.update(self._task, completed=done, total=total, rate=rate)


class _LogMeter:
    """One line every quarter of a minute, for output that goes to a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = self._told = time.monotonic()

    def __enter__(self) -> "_LogMeter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, total: int, tokens: int) -> None:
        now = time.monotonic()
        if now - self._told >= _LOG_EVERY_S:
            self._told = now
            rate = tokens / (now - self._began)
            self._console.print(f"{done} of {total} answered, {rate:,.0f} tokens/s")


def make_meter(*, quiet: bool) -> Meter:
    """The meter for where standard error goes."""
    console = Console(stderr=True)
    if quiet:
        return NoMeter()
    return _BarMeter(console) if console.is_terminal else _LogMeter(console)
