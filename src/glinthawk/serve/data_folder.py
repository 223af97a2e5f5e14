"""The folder that a server keeps everything in. Names in it are made here, never by clients."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.jobs.output import sync_folder

__all__ = ["DataFolder", "new_id"]

#: Names that are made here.
_OWN = re.compile(r"(file-|batch_)?[0-9a-f]{24}")


def new_id(prefix: str) -> str:
    """A name that nobody can guess."""
    return prefix + secrets.token_hex(12)


class DataFolder:
    """Held by one server at a time. Raises UsageError if it cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records.sqlite"
        self._files, self._uploads, self._batches = (
            path / name for name in ("files", "uploads", "batches")
        )
        self._refuse_others()
        try:
            for folder in (path, self._files, self._uploads, self._batches):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(
                f"--data: cannot use {path}: {error.strerror}; give another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise UsageError(
                f"--data: another server uses {path}; end it, or give another folder"
            ) from error

    def _refuse_others(self) -> None:
        """Raise UsageError for a folder with something in it that no server has put there."""
        own = (self._files, self._uploads, self._batches)
        if self.records.exists() or not self.path.is_dir():
            return
        within = [one for folder in own if folder.is_dir() for one in folder.iterdir()]
        others = {*self.path.iterdir()} - {*own, self.path / "lock"}
        if found := sorted([*within, *others]):
            raise UsageError(
                f"--data: {self.path} has {found[0].relative_to(self.path)} and no records of a "
                "server; give a new folder, or the one of an earlier server"
            )

    def close(self) -> None:
        """Let another server have it."""
        os.close(self._lock)

    def content(self, file_id: str) -> Path:
        """Where the content of a file is."""
        return self._files / file_id

    def new_upload(self) -> Path:
        """A place for what is on its way, and is no file before it is whole."""
        return self._uploads / secrets.token_hex(12)

    def keep(self, upload: Path, file_id: str) -> None:
        """Make what lies at ``upload`` the content of a file; it is on disk then."""
        with upload.open("rb") as file:
            os.fsync(file.fileno())
        upload.replace(self.content(file_id))
        sync_folder(self._files)

    def delete_content(self, file_id: str) -> None:
        """Of a file that has no record any more. Who reads it now reads on."""
        self.content(file_id).unlink(missing_ok=True)

    def begin_batch(self, batch_id: str, input_file_id: str) -> None:
        """Give a batch its folder. Its input stays there if the file is deleted. Raises
        FileNotFoundError if it has been already."""
        folder = self._batches / batch_id
        folder.mkdir(mode=0o700)
        try:
            os.link(self.content(input_file_id), self.batch_input(batch_id))
        except OSError:
            self.end_batch(batch_id)
            raise
        sync_folder(folder)
        sync_folder(self._batches)

    def batch_input(self, batch_id: str) -> Path:
        """The lines of a batch."""
        return self._batches / batch_id / "input.jsonl"

    def batch_results(self, batch_id: str) -> Path:
        """Its results so far, beside which lies its journal."""
        return self._batches / batch_id / "results.jsonl"

    def end_batch(self, batch_id: str) -> None:
        """Remove what only a batch under way needs."""
        shutil.rmtree(self._batches / batch_id, ignore_errors=True)

    def sweep(self, file_ids: Collection[str], batch_ids: Collection[str]) -> None:
        """Remove what a kill has left: of what servers make, everything but the contents of
        ``file_ids`` and the folders of ``batch_ids``."""
        for upload in filter(_is_own, self._uploads.iterdir()):
            upload.unlink()
        for content in filter(_is_own, self._files.iterdir()):
            if content.name not in file_ids:
                content.unlink()
        for folder in filter(_is_own, self._batches.iterdir()):
            if folder.name not in batch_ids:
                self.end_batch(folder.name)


def _is_own(path: Path) -> bool:
    return _OWN.fullmatch(path.name) is not None
