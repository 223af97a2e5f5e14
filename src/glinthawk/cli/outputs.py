"""Files that a command writes at its end are tried at its beginning."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import combinations
from pathlib import Path

import typer

from glinthawk.core.errors import UsageError
from glinthawk.telemetry.trace import Trace

__all__ = ["check_apart", "check_output", "open_trace"]


def check_output(parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """For every option that names a file to write: raises UsageError, before any work is done."""
    if path is not None and (reason := _obstacle(path)):
        raise UsageError(f"{max(parameter.opts, key=len)}: cannot write {path}: {reason}")
    return path


def check_apart(files: Mapping[str, Path | None]) -> None:
    """For all options of a command that name files: raises UsageError if two of them, of which the
    second is written, are one file."""
    given = [(option, path) for option, path in files.items() if path is not None]
    for (first, path), (second, other) in combinations(given, 2):
        if _are_one_file(path, other):
            raise UsageError(f"{second}: {other} is the file of {first} too; give another one")


def open_trace(
    path: Path | None, begun: float | None = None
) -> AbstractContextManager[Trace | None]:
    """Of ``--trace``, to be closed; None without it. Raises UsageError."""
    if path is None:
        return nullcontext()
    try:
        return closing(Trace(path, begun))
    except OSError as error:
        raise UsageError(f"--trace: cannot write {path}: {error.strerror}") from error


def _are_one_file(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        # What is no file, such as /dev/null, may well be named twice.
        return path.is_file() and path.samefile(other)
    return path.resolve() == other.resolve()


def _obstacle(path: Path) -> str | None:
    folder = path.parent
    if path.is_dir():
        return "it is a folder; give a file in it"
    if not folder.is_dir():
        return f"there is no folder {folder}; make it first"
    if not os.access(path if path.exists() else folder, os.W_OK):
        return "permission denied; give another place"
    return None
