"""The lines of an input that failed, in a file that is an input again."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.jobs.failures import Failures
from glinthawk.jobs.input import InputLines
from glinthawk.jobs.output import sync_folder

__all__ = ["save_failed_lines"]


def save_failed_lines(path: Path, source: Path, num_bytes: int, failures: Failures) -> None:
    """Write them, as they stand in the first ``num_bytes`` of ``source``: none, if none failed.

    A kill leaves the old file or the new one. Raises UsageError if it cannot be written.
    """
    is_special = path.exists() and not path.is_file()
    draft = path if is_special else path.with_name(path.name + ".new")
    try:
        with draft.open("wb") as file:
            file.writelines(_failed(source, num_bytes, failures))
            if not is_special:
                file.flush()
                os.fsync(file.fileno())
        if not is_special:
            draft.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"--errors: cannot write {path}: {error.strerror}") from error


def _failed(source: Path, num_bytes: int, failures: Failures) -> Iterator[bytes]:
    with closing(InputLines(source, num_bytes)) as lines:
        for line, _, raw in lines:
            if line in failures:
                yield raw.rstrip(b"\r\n") + b"\n"
