"""Processes that a run starts for itself: workers, and nodes of a pipeline."""

import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from glinthawk.core.drives import Drive
from glinthawk.core.errors import AddressError, WorkerLost
from glinthawk.launch.revival import Fate, Revival
from glinthawk.wire.address import PRIVATE_FOLDER, Address

__all__ = ["LocalProcesses", "local_nodes", "local_workers", "parse_tier2"]

_log = logging.getLogger(__name__)

_LOCAL = re.compile(r"local:(\d+)")
_GRACE_S = 5.0
_LAST_WORDS = 2_000


def parse_tier2(places: Sequence[str]) -> tuple[int, list[Address]]:
    """How many workers to start here, and the addresses of the others. Raises AddressError."""
    num_local, addresses = 0, []
    for place in places:
        local = _LOCAL.fullmatch(place)
        if local and int(local[1]) > 0:
            num_local += int(local[1])
        elif place.startswith("local"):
            raise AddressError(f"{place!r} starts no workers; write local:2 for two")
        else:
            addresses.append(Address.parse(place))
    return num_local, addresses


def local_workers(
    count: int, kv_bytes: int, threads: int, drives: Sequence[Drive] = ()
) -> "LocalProcesses":
    """Workers with so much KV and so many threads each."""
    arguments = ["--kv", str(kv_bytes), "--threads", str(threads)]
    for drive in drives:
        arguments += ["--storage", str(drive)]
    return LocalProcesses("worker", count, arguments)


def local_nodes(count: int, cores: int) -> "LocalProcesses":
    """Nodes that have ``cores`` each, for themselves and the workers they start."""
    return LocalProcesses("node", count, ["--threads", str(cores)])


class LocalProcesses:
    """Processes of one ``role`` that live as long as the ``with`` block, however it ends.

    Each holds the read end of a pipe of this process as its standard input, so that even SIGKILL
    here ends it. Sockets and last words are in a folder that only this user can read.
    """

    def __init__(
        self,
        role: str,
        count: int,
        arguments: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._role, self._count, self._arguments = role, count, list(arguments)
        self._clock = clock
        self._processes: list[subprocess.Popen[bytes]] = []
        self._revivals: list[Revival] = []
        self._folder: Path | None = None

    @property
    def addresses(self) -> list[Address]:
        return [self._address(index) for index in range(self._count)]

    def __enter__(self) -> "LocalProcesses":
        with ExitStack() as undo:
            undo.callback(self.close)
            for index in range(self._count):
                self._folder = self._folder or Path(tempfile.mkdtemp(prefix=PRIVATE_FOLDER))
                self._processes.append(self._start(index))
                self._revivals.append(Revival())
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, first by ending their pipe, then by force."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Raise WorkerLost with the last words of one that has died."""
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                raise WorkerLost(self._obituary(index))

    def revive(self) -> dict[Address, Address]:
        """Start those again that have died, and say what they said last; later and later while
        they do no work between, and in the end no more. None ever listens elsewhere."""
        now = self._clock()
        for index, (process, revival) in enumerate(
            zip(self._processes, self._revivals, strict=True)
        ):
            if process.poll() is None:
                continue
            if not revival.is_known:
                revival.died(now, self._obituary(index))
                _log.warning("%s; %s", revival.words, revival.outlook)
            if revival.is_due(now):
                assert process.stdin is not None
                process.stdin.close()
                self._processes[index] = self._start(index)
                revival.started()
        return {}

    def worked(self, address: Address) -> None:
        """The process at ``address`` has done something, if it is one of these."""
        for index, revival in enumerate(self._revivals):
            if revival.deaths and self._address(index) == address:
                revival.worked()

    def fates(self) -> dict[Address, Fate]:
        """Of those that have died and not worked since."""
        fates = {index: revival.fate for index, revival in enumerate(self._revivals)}
        return {self._address(index): fate for index, fate in fates.items() if fate is not None}

    def _obituary(self, index: int) -> str:
        words = self._log(index).read_text(errors="replace")[-_LAST_WORDS:].strip()
        end = _describe_end(self._processes[index].returncode)
        return f"{self._role} {index + 1} {end}; its last words: {words or '(none)'}"

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        with self._log(index).open("wb") as log:
            # Its own session: Ctrl-C is for this process, which drains; workers must go on.
            return subprocess.Popen(
                self._command(index),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def _command(self, index: int) -> list[str]:
        command = [sys.executable, "-m", "glinthawk", self._role, "--quiet", "--lifeline"]
        return [*command, "--listen", f"ipc://{self._socket(index)}", *self._arguments]

    def _address(self, index: int) -> Address:
        return Address.parse(f"ipc://{self._socket(index)}")

    def _socket(self, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._role}-{index}.sock"

    def _log(self, index: int) -> Path:
        return self._socket(index).with_suffix(".log")


def _describe_end(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status}{hint}"
