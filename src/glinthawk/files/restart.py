"""What ``--restart`` does to an output that is made of results, and how that is undone."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from glinthawk.files.places import is_url
from glinthawk.files.target import Target
from glinthawk.jobs.output import OutputFile
from glinthawk.jobs.record import record_path

__all__ = ["Restart"]


class Restart:
    """Begun when it is made: ``target`` goes to the first free of OUT.1, OUT.2, ..., unless the
    job appends there itself; an object in a store is replaced at the end. Files ``beside`` it are
    kept until ``settle`` knows whether the job of ``results`` was begun anew. Raises JournalError
    where another run is at it."""

    def __init__(self, target: Target, results: Path, beside: Sequence[Path]) -> None:
        if results.exists():
            OutputFile(results).close()  # no other run has it, whose files these would be
        self._target, self._results = target, results
        self._journal = self._stamp()
        self._beside = beside
        self._there = [path for path in beside if path.exists()]
        for path in self._there:
            path.rename(_kept(path))
        self._aside = None if target.is_plain else _move_aside(target)

    def settle(self) -> None:
        """If the job came to nothing, as its journal's undoing shows, put all back."""
        if self._stamp() != self._journal:
            for path in self._there:
                _kept(path).unlink(missing_ok=True)
            return
        if self._aside is not None:
            self._aside.rename(self._target.path)
        for path in self._beside:
            path.unlink(missing_ok=True)
        for path in self._there:
            _kept(path).rename(path)

    def _stamp(self) -> tuple[int, int] | None:
        """Another one for each journal; one that was moved aside and back has its own."""
        try:
            facts = record_path(self._results).stat()
        except FileNotFoundError:
            return None
        return facts.st_ino, facts.st_mtime_ns


def _kept(path: Path) -> Path:
    return path.with_name(path.name + ".before")


def _move_aside(target: Target) -> Path | None:
    if is_url(target.place) or not target.path.exists():
        return None
    for number in count(1):
        aside = target.path.with_name(f"{target.path.name}.{number}")
        if not aside.exists():
            target.path.rename(aside)
            break
    return aside
