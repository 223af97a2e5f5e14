"""What the start of a run does to files, and how that is undone where nothing came of it."""

from itertools import count
from pathlib import Path

from glinthawk.jobs.output import OutputFile
from glinthawk.jobs.record import record_path
from glinthawk.jobs.stream import OutputStream

__all__ = ["Beginning"]


class Beginning:
    """Made before ``output`` is opened; all else is called by who holds it."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._is_new = not output.exists()
        self._aside: Path | None = None

    def move_aside(self, file: OutputFile | OutputStream) -> None:
        """Rename output and record to the first free of OUT.1, OUT.2, ..."""
        if not file.size:
            return
        path = file.path
        for number in count(1):
            aside = path.with_name(f"{path.name}.{number}")
            if not aside.exists() and not record_path(aside).exists():
                break
        if record_path(path).exists():
            record_path(path).rename(record_path(aside))
        file.move_to(aside)
        self._aside = aside

    def undo(self) -> None:
        """There are no results: put back what was moved aside, or leave nothing behind."""
        record_path(self._output).unlink(missing_ok=True)
        if self._aside is not None:
            if record_path(self._aside).exists():
                record_path(self._aside).rename(record_path(self._output))
            self._aside.replace(self._output)
        elif self._is_new:
            # A link that somebody made stays, as it was: to nothing.
            self._output.resolve().unlink(missing_ok=True)
