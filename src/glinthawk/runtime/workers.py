"""Workers that a run starts for itself, and those it is told about."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from glinthawk.core.config import PRIVATE_FOLDER
from glinthawk.core.errors import AddressError, WorkerLost
from glinthawk.wire.address import Address

__all__ = ["LocalWorkers", "parse_tier2"]

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


class LocalWorkers:
    """Worker processes that live as long as the ``with`` block, however it ends.

    Each holds the read end of a pipe of this process as its standard input, so that even SIGKILL
    here ends it. Sockets and last words are in a folder that only this user can read.
    """

    def __init__(self, count: int, kv_bytes: int, threads: int) -> None:
        self._count, self._kv_bytes, self._threads = count, kv_bytes, threads
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder: Path | None = None

    @property
    def addresses(self) -> list[Address]:
        return [Address.parse(f"ipc://{self._socket(index)}") for index in range(self._count)]

    def __enter__(self) -> "LocalWorkers":
        with ExitStack() as undo:
            undo.callback(self.close)
            for index in range(self._count):
                self._folder = self._folder or Path(tempfile.mkdtemp(prefix=PRIVATE_FOLDER))
                self._processes.append(self._start(index))
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
        """Raise WorkerLost with the last words of a worker that has died."""
        for index, process in enumerate(self._processes):
            if process.poll() is not None:
                words = self._log(index).read_text(errors="replace")[-_LAST_WORDS:].strip()
                raise WorkerLost(
                    f"worker {index + 1} ended with status {process.returncode}; its last words: "
                    f"{words or '(none)'}"
                )

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "glinthawk", "worker", "--quiet", "--lifeline"]
        command += ["--listen", f"ipc://{self._socket(index)}"]
        command += ["--kv", str(self._kv_bytes), "--threads", str(self._threads)]
        with self._log(index).open("wb") as log:
            # Its own session: Ctrl-C is for this process, which drains; workers must go on.
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def _socket(self, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"worker-{index}.sock"

    def _log(self, index: int) -> Path:
        return self._socket(index).with_suffix(".log")
