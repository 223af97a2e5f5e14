"""The lines of an input that failed, in a file that is an input again."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.jobs.failures import Failures
from glinthawk.jobs.input import InputLines
from glinthawk.jobs.output import replacing

__all__ = ["save_failed_lines"]


def save_failed_lines(path: Path, source: Path, num_bytes: int, failures: Failures) -> None:
    """Write them, as they stand in the first ``num_bytes`` of ``source``: none, if none failed.

    A kill leaves the old file or the new one. Raises UsageError if it cannot be written.
    """
    is_special = path.exists() and not path.is_file()
    try:
        with path.open("wb") if is_special else replacing(path) as file:
            file.writelines(_failed(source, num_bytes, failures))
    except OSError as error:
        raise UsageError(f"--errors: cannot write {path}: {error.strerror}") from error


def _failed(source: Path, num_bytes: int, failures: Failures) -> Iterator[bytes]:
    with closing(InputLines(source, num_bytes)) as lines:
        for line, _, raw in lines:
            if line in failures:
                yield raw.rstrip(b"\r\n") + b"\n"
