"""Processes of a job, and somebody who kills and stops them."""

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

__all__ = [
    "Monkey",
    "Supervised",
    "actors",
    "bearers",
    "descendants",
    "run_and_actors",
    "run_and_descendants",
]

#: Of a command, in a list of deeds.
_LONGEST_WORDS = 80
#: How many rests a process stays stopped, and how often nothing is waited for.
_MOST_RESTS, _RASHNESS = 4, 0.15


class Supervised:
    """A process that is started again whenever it is found killed; ``log`` has its last words."""

    def __init__(self, log: Path, *command: object) -> None:
        self._log, self._command = log, list(map(str, command))
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # a relay lives as long as it is open
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def tend(self) -> None:
        """It has no reason to end by itself."""
        if (status := self.process.poll()) is not None:
            assert status == -signal.SIGKILL, self._log.read_text()
            self.end()
            self.process = self._start()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def descendants(process: int) -> list[int]:
    """All processes below this one, by number."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def run_and_descendants(run: int) -> list[int]:
    """Whoever belongs to a run, itself included."""
    return [run, *descendants(run)]


def run_and_actors(run: int) -> list[int]:
    """A run and its Ray actors, once some serve: to start them takes long, and Ray's processes
    are not ours to kill."""
    found = actors(run, "NodeActor") + actors(run, "WorkerActor")
    return [run, *found] if found else []


def actors(run: int, kind: str) -> list[int]:
    """Processes of a run's Ray actors of this class that serve."""
    title = f"ray::{kind}.serve".encode()
    return [pid for pid in descendants(run) if _read(pid, "cmdline").startswith(title)]


def bearers(mark: str) -> list[int]:
    """Processes that were started with ``mark`` in their environment."""
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in processes if mark.encode() in _read(pid, "environ")]


def _read(process: int, what: str) -> bytes:
    """Of one that may end any moment, or be somebody else's."""
    with suppress(OSError):
        return Path(f"/proc/{process}/{what}").read_bytes()
    return b""


class Monkey:
    """Every now and then does something to one of the processes it is shown."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.deeds: list[str] = []
        self._stopped: list[int] = []
        self._num_rests = 0

    def pause_s(self) -> float:
        return self._random.uniform(0.5, 2)

    def is_rash(self) -> bool:
        """Whether it does something now though the last deed has not been got over."""
        return self._random.random() < _RASHNESS

    def act(self, processes: list[int]) -> None:
        """SIGKILL, or SIGSTOP until the next deed but one, or a few rests later."""
        self.relent(keep=1)
        words = {pid: _read(pid, "cmdline") for pid in sorted({*processes} - {*self._stopped})}
        alive = [pid for pid, said in words.items() if said]
        if not alive:
            return
        process = self._random.choice(alive)
        deed = self._random.choice([signal.SIGKILL, signal.SIGSTOP])
        what = words[process].replace(b"\0", b" ").decode(errors="replace")
        what = what.partition(" -m ")[2] or what
        with suppress(ProcessLookupError):
            os.kill(process, deed)
            self._num_rests = 0
            self.deeds.append(f"{deed.name} {process} {what[:_LONGEST_WORDS]}")
            if deed is signal.SIGSTOP:
                self._stopped.append(process)

    def rest(self) -> None:
        """Do nothing for once."""
        self._num_rests += 1
        if self._num_rests == _MOST_RESTS:
            self.relent()

    def relent(self, keep: int = 0) -> None:
        """Let those go on that are stopped, but for the newest ``keep``."""
        while len(self._stopped) > keep:
            with suppress(ProcessLookupError):
                os.kill(self._stopped.pop(0), signal.SIGCONT)
