"""How fast a drive reads what lies in a row."""

import mmap
import os
import tempfile
import time
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.core.units import format_size

__all__ = ["sequential_reads"]

_BLOCK = 8 << 20


def sequential_reads(folder: Path, num_bytes: int = 1 << 30) -> float:
    """Bytes a second of direct reads (past the page cache) of a scratch file, which is removed.

    Raises UsageError if the folder cannot take it.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="glinthawk-scratch-") as scratch:
            _fill(scratch.fileno(), num_bytes)
            return num_bytes / _read_s(scratch.name, num_bytes)
    except OSError as error:
        raise UsageError(
            f"--storage {folder}: {error.strerror}; give a folder on a drive that takes direct "
            f"reads and has {format_size(num_bytes)} free"
        ) from error


def _fill(file: int, num_bytes: int) -> None:
    """With noise: some drives compress."""
    block = os.urandom(_BLOCK)
    for _ in range(num_bytes // _BLOCK):
        os.write(file, block)
    os.fsync(file)


def _read_s(path: str, num_bytes: int) -> float:
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _BLOCK) as aligned:
            begun = time.perf_counter()
            for offset in range(0, num_bytes, _BLOCK):
                os.preadv(file, [aligned], offset)
            return time.perf_counter() - begun
    finally:
        os.close(file)
