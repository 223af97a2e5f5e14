"""Processes of a run that fall, for as long as a file says which, and when: "worker at work",
"node at start" and so on. They are started again without a pause, and given up after three deaths
in a row."""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from glinthawk.launch import local_processes as processes
from glinthawk.launch import revival

__all__ = ["LAST_WORDS", "MOST_DEATHS", "make_frail", "make_worker_fall", "says"]

LAST_WORDS = "the frail one fell"
MOST_DEATHS = 3


class FrailProcesses(processes.LocalProcesses):
    """The first ``num_sound`` never fall. The clock leaps over every wait."""

    def __init__(
        self, poison: Path, num_sound: int, role: str, count: int, arguments: Sequence[str]
    ) -> None:
        super().__init__(role, count, arguments, partial(next, itertools.count(step=60)))
        self._poison, self._num_sound = poison, num_sound

    def _command(self, index: int) -> list[str]:
        executable, _module, _glinthawk, *words = command = super()._command(index)
        is_sound = index < self._num_sound
        return command if is_sound else [executable, __file__, str(self._poison), *words]


def make_frail(patch: pytest.MonkeyPatch, poison: Path, num_sound: int = 0) -> None:
    """Whatever this process starts for its runs."""
    patch.setattr(processes, "LocalProcesses", partial(FrailProcesses, poison, num_sound))
    patch.setattr(revival, "_MOST_DEATHS", MOST_DEATHS)


def says(poison: Path, when: str) -> bool:
    """Whether it is time to fall."""
    return poison.exists() and poison.read_text() == when


def _fall_if(poison: Path, when: str) -> None:
    if says(poison, when):
        sys.stderr.write(f"{LAST_WORDS}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def make_worker_fall(poison: Path, fall_if: Callable[[Path, str], None]) -> None:
    """This process, at the first rows that it is given."""
    from glinthawk.tier2.worker import Worker
    from glinthawk.wire.messages import Attend, FromTier1, Store, decode

    handle = Worker.handle

    def fall(worker: Worker, client: bytes, frames: list[memoryview]) -> object:
        if isinstance(decode(frames[0], FromTier1), Attend | Store):
            fall_if(poison, "worker at work")
        return handle(worker, client, frames)

    Worker.handle = fall  # type: ignore[assignment, method-assign]


def _make_node_fall(poison: Path) -> None:
    """At the first step that it is told to take."""
    from glinthawk.engine.open_slice import OpenSlice
    from glinthawk.wire.control import RunStep

    run = OpenSlice._run

    def fall(stage: OpenSlice, message: RunStep) -> None:
        _fall_if(poison, "node at work")
        run(stage, message)

    OpenSlice._run = fall  # type: ignore[method-assign]


def _main() -> None:
    poison, role = Path(sys.argv[1]), sys.argv[2]
    sys.argv = ["glinthawk", *sys.argv[2:]]
    _fall_if(poison, f"{role} at start")
    if role == "worker":
        make_worker_fall(poison, _fall_if)
    else:
        _make_node_fall(poison)
        make_frail(pytest.MonkeyPatch(), poison)
    from glinthawk.cli.main import main

    main()


if __name__ == "__main__":
    _main()
