"""Page files: scratch on drives that nobody ever finds lying about.

A file loses its name as soon as it is open, so that its room is free again however its process
ends. One that was left in the moment between belongs to nobody: the next worker removes it.
"""

import errno
import fcntl
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glinthawk.core.drives import Drive
from glinthawk.core.errors import UsageError
from glinthawk.core.units import format_size

__all__ = ["PageFile", "PageFiles"]

_log = logging.getLogger(__name__)

_PREFIX = "glinthawk-pages-"


@dataclass(frozen=True, slots=True)
class PageFile:
    """An open file, all of whose room is there."""

    descriptor: int
    num_bytes: int
    #: Where it is, for words about failures.
    folder: Path


class PageFiles:
    """One file on each drive, as long as the ``with`` block."""

    def __init__(self, drives: Sequence[Drive]) -> None:
        self._drives = drives
        self._files: list[PageFile] = []

    def __enter__(self) -> tuple[PageFile, ...]:
        """Raises UsageError when a drive cannot be used, or has not the room."""
        try:
            for drive in self._drives:
                self._files.append(_open(drive))
        except BaseException:
            self.close()
            raise
        return tuple(self._files)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the room back."""
        while self._files:
            os.close(self._files.pop().descriptor)


def _open(drive: Drive) -> PageFile:
    try:
        _remove_leftovers(drive.folder)
        descriptor = _open_nameless(drive.folder)
    except OSError as error:
        raise UsageError(f"no page file can be made in {drive.folder}: {error.strerror}") from error
    try:
        os.posix_fallocate(descriptor, 0, drive.num_bytes)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(_no_room(drive, error)) from error
    return PageFile(descriptor, drive.num_bytes, drive.folder)


def _no_room(drive: Drive, error: OSError) -> str:
    wanted = f"{drive.folder} cannot give {format_size(drive.num_bytes)} for pages"
    if error.errno != errno.ENOSPC:
        return f"{wanted}: {error.strerror}"
    room = os.statvfs(drive.folder)
    return f"{wanted}: {format_size(room.f_bavail * room.f_frsize)} are free; ask for less"


def _open_nameless(folder: Path) -> int:
    """Past the system's cache, where the file system can: pages are read once a step."""
    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        direct = os.open(name, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        _log.warning("%s takes no direct reads; its pages go through the system's cache", folder)
        return descriptor
    finally:
        os.unlink(name)
    os.close(descriptor)
    return direct


def _remove_leftovers(folder: Path) -> None:
    """Those whose process has died; a living one holds a lock."""
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
