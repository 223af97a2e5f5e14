"""The output file: held by one process; what was appended is on disk."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from glinthawk.core.errors import JournalError, UsageError

__all__ = ["OutputFile", "replacing", "sync_folder"]


class OutputFile:
    """An exclusively locked file that only grows, but for a torn end."""

    #: Whether what was written can be read again, so that a job can be resumed.
    is_kept = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open_locked(path)

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(self._fd, size)
        os.fsync(self._fd)

    def append(self, data: bytes) -> None:
        """Write ``data`` and wait for the disk. What went wrong leaves no torn line behind."""
        size = self.size
        try:
            written = 0
            while written < len(data):
                # One write, but for a disk that fills up or a signal in between.
                written += os.write(self._fd, memoryview(data)[written:])
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise JournalError(
                f"cannot write {self.path}: {error.strerror}; "
                "make room and run the same command again to resume"
            ) from error

    def move_to(self, aside: Path) -> None:
        """Rename what there is and hold a new, empty file under the old name."""
        self.path.rename(aside)
        self._hold(_open_locked(self.path), self.path.parent)

    def rewrite(self, keeps: Callable[[bytes], bool]) -> None:
        """Drop the lines that ``keeps`` refuses, in one go: a kill leaves the old file or the new
        one."""
        path = self.path.resolve()
        draft = path.with_name(path.name + ".new")
        with ExitStack() as undo:
            fd = _open_locked(draft)
            undo.callback(os.close, fd)
            undo.callback(draft.unlink, missing_ok=True)
            try:
                _copy_lines(self._fd, fd, keeps)
                draft.replace(path)
            except OSError as error:
                raise JournalError(
                    f"cannot write {draft}: {error.strerror}; "
                    "make room and run the same command again"
                ) from error
            undo.pop_all()
        self._hold(fd, path.parent)

    def _hold(self, fd: int, folder: Path) -> None:
        """Go on with another file. The old lock goes last: no other run ever finds the name
        free."""
        old, self._fd = self._fd, fd
        os.close(old)
        sync_folder(folder)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def _copy_lines(source: int, target: int, keeps: Callable[[bytes], bool]) -> None:
    os.lseek(source, 0, os.SEEK_SET)
    os.ftruncate(target, 0)
    os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))
    with open(source, "rb", closefd=False) as old, open(target, "wb", closefd=False) as new:
        new.writelines(line for line in old if keeps(line))
    os.fsync(target)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """What is written takes the place of ``path`` at the end of the block, and is on the disk then.
    A kill leaves the old file or the new one."""
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until names in ``folder`` are on disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_locked(path: Path) -> int:
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, a run with --restart may have moved the file aside.
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise JournalError(
                f"another run is writing {path}; wait for it or give another -o"
            ) from error
        except FileNotFoundError:
            pass
        os.close(fd)


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}; give -o a file in a folder that exists"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is not a regular file, so a run cannot resume; give another -o")
    return fd
