"""An output that only passes results on: a terminal, a pipe, /dev/stdout. Nothing is resumed."""

import os
import re
from pathlib import Path

from glinthawk.core.errors import JournalError, UsageError

__all__ = ["OutputStream", "is_stream"]

_NUMBERED = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")
_NAMED = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def is_stream(path: Path) -> bool:
    """Whether ``path`` names an open descriptor, whatever it leads to, or is no regular file."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file())


class OutputStream:
    """Like an OutputFile, but what is written is gone."""

    size = 0
    is_kept = False

    def __init__(self, path: Path) -> None:
        self.path = path
        number = _descriptor(path)
        try:
            # A copy shares its place in the file with whatever else is written there.
            self._fd = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}; give another -o") from error

    def truncate(self, size: int) -> None:
        """Nothing is taken back."""

    def append(self, data: bytes) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise JournalError(
                f"cannot write {self.path}: {error.strerror}; run again with a file as -o, which "
                "can be resumed"
            ) from error

    def move_to(self, aside: Path) -> None:
        """There is nothing to move."""

    def close(self) -> None:
        """Let go of the copy."""
        os.close(self._fd)


def _descriptor(path: Path) -> int | None:
    numbered = _NUMBERED.fullmatch(str(path))
    return int(numbered[1]) if numbered else _NAMED.get(str(path))
