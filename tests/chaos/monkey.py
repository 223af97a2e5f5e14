"""Processes of a job, and somebody who kills and stops them."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Monkey", "Supervised", "descendants", "worker_behind_relay"]


class Supervised:
    """A process that is started again whenever it is found dead."""

    def __init__(self, *command: object) -> None:
        self._command = list(map(str, command))
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # a relay lives as long as it is open
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def tend(self) -> None:
        if self.process.poll() is not None:
            self.end()
            self.process = self._start()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def worker_behind_relay(
    folder: Path, name: str, *more: object, kv: str = "64MiB"
) -> Iterator[tuple[str, list[Supervised]]]:
    """A worker, and a link to it that is cut by killing the relay: (address, both processes)."""
    socket, link = folder / name, folder / f"{name}.link"
    command = [sys.executable, "-m", "glinthawk", "worker", "--quiet", "--threads", 1]
    processes = [
        Supervised(*command, "--kv", kv, "--listen", f"ipc://{socket}", *more),
        Supervised(sys.executable, "-m", "glinthawk.bench.relay", link, socket),
    ]
    try:
        yield f"ipc://{link}", processes
    finally:
        for process in processes:
            process.end()


def descendants(process: int) -> list[int]:
    """All processes below this one, by number."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


class Monkey:
    """Every now and then does something to one of the processes it is shown."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.deeds: list[str] = []
        self._stopped: list[int] = []

    def pause_s(self) -> float:
        return self._random.uniform(1, 3)

    def act(self, processes: list[int]) -> None:
        """SIGKILL, or SIGSTOP until the next deed but one."""
        self.relent(keep=1)
        if not processes:
            return
        process = self._random.choice(sorted(processes))
        deed = self._random.choice([signal.SIGKILL, signal.SIGSTOP])
        with suppress(ProcessLookupError):
            os.kill(process, deed)
            self.deeds.append(f"{deed.name} {process}")
            if deed is signal.SIGSTOP:
                self._stopped.append(process)

    def relent(self, keep: int = 0) -> None:
        """Let those go on that are stopped, but for the newest ``keep``."""
        while len(self._stopped) > keep:
            with suppress(ProcessLookupError):
                os.kill(self._stopped.pop(0), signal.SIGCONT)
