"""A file that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.jobs.output import OutputFile, sync_folder

__all__ = ["drafted"]


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Where to write ``path``: an empty file beside it, which takes its place at the end, and which
    another run cannot have at the same time."""
    draft = path.with_name(path.name + ".new")
    lock = OutputFile(draft)
    try:
        lock.truncate(0)
        yield draft
        _sync(draft)
        draft.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(
                f"cannot write {draft}: {error.strerror or error}; make room and run the same "
                "command again"
            ) from error
        raise
    finally:
        lock.close()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
