"""One pass over the input before the run: how long is it, and is it still the same?"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from glinthawk.core.errors import UsageError

__all__ = ["Survey", "open_input", "survey_input"]


@dataclass(frozen=True, slots=True)
class Survey:
    """Facts of an input. ``num_requests`` leaves blank lines out.

    ``prefix_sha256`` is of the first bytes that were asked for; None if there are not so many.
    ``prefix_is_whole_lines`` says whether what follows them begins on a line of its own.
    """

    num_bytes: int
    sha256: str
    num_lines: int
    num_requests: int
    prefix_sha256: str | None
    prefix_is_whole_lines: bool


def survey_input(path: Path, prefix: int = 0) -> Survey:
    """Read ``path`` once, a line in memory at a time."""
    digest = hashlib.sha256()
    size = num_lines = num_requests = 0
    prefix_sha256 = digest.hexdigest() if prefix == 0 else None
    whole = True
    with open_input(path) as lines:
        for line in lines:
            if size < prefix <= size + len(line):
                head = digest.copy()
                head.update(line[: prefix - size])
                prefix_sha256 = head.hexdigest()
                # A last line without a newline may get one, but must not go on.
                whole = not line[prefix - size :].strip()
            digest.update(line)
            size += len(line)
            num_lines += 1
            num_requests += not line.isspace()
    return Survey(size, digest.hexdigest(), num_lines, num_requests, prefix_sha256, whole)


def open_input(path: Path) -> BinaryIO:
    """``path`` for reading, if it can be read more than once."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give -i an input file") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{path} is not a regular file, so a run cannot resume; save it as one")
    return file
