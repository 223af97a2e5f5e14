"""The files that a batch leaves: answers in one, errors in the other."""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.jobs.finished import is_success
from glinthawk.jobs.input import InputLines
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.lines import Refusal, read_custom_id
from glinthawk.jobs.results import refusal_line
from glinthawk.serve.api_objects import FileObject
from glinthawk.serve.data_folder import DataFolder, new_id

__all__ = ["BatchFiles", "count_results", "expire_rest", "has_expired", "split_results"]

_EXPIRED = "batch_expired"


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """None where there would be nothing in it."""

    output: FileObject | None = None
    errors: FileObject | None = None
    num_completed: int = 0
    num_failed: int = 0

    @property
    def objects(self) -> list[FileObject]:
        """Those that there are."""
        return [one for one in (self.output, self.errors) if one is not None]

    def fields(self) -> dict[str, Any]:
        """What a batch says of them."""
        return {
            "output_file_id": self.output and self.output.id,
            "error_file_id": self.errors and self.errors.id,
        }


def count_results(results: Path) -> tuple[int, int]:
    """Answers and errors so far."""
    if not results.exists():
        return 0, 0
    with results.open("rb") as lines:
        found = [is_success(line) for line in lines if line.endswith(b"\n")]
    return sum(found), len(found) - sum(found)


def has_expired(results: Path) -> bool:
    """Whether lines were given up because the time was over."""
    if not results.exists():
        return False
    with results.open("rb") as lines:
        return any(not is_success(line) and _EXPIRED.encode() in line for line in lines)


def expire_rest(journal: Journal) -> None:
    """Give every line without a result an error: its time is over."""
    error = RequestError(
        "This request could not be executed before the completion window expired.",
        code=_EXPIRED,
    )
    with closing(InputLines(journal.source, journal.survey.num_bytes)) as lines:
        for line, _, raw in lines:
            if not journal.is_finished(line):
                refusal = Refusal(line, read_custom_id(raw), error)
                journal.append(line, refusal_line(refusal), failed=True)
    journal.flush()


def split_results(folder: DataFolder, batch_id: str) -> BatchFiles:
    """Contents of both files, on disk, of what is whole of the results so far. They have no records
    yet."""
    results = folder.batch_results(batch_id)
    if not results.exists():
        return BatchFiles()
    places = [folder.new_upload() for _ in range(2)]
    with ExitStack() as stack:
        for place in places:
            stack.callback(place.unlink, missing_ok=True)
        counts = _write(results, places[0], places[1])
        kept = [
            _keep(folder, place, f"{batch_id}_{name}.jsonl") if count else None
            for place, name, count in zip(places, ("output", "error"), counts, strict=True)
        ]
    return BatchFiles(kept[0], kept[1], *counts)


def _write(results: Path, output: Path, errors: Path) -> tuple[int, int]:
    """How many lines there are in each."""
    num_done = num_failed = 0
    with results.open("rb") as lines, output.open("xb") as good, errors.open("xb") as bad:
        for line in lines:
            if not line.endswith(b"\n"):
                break  # a kill has cut it off
            if is_success(line):
                good.write(line)
                num_done += 1
            else:
                bad.write(line)
                num_failed += 1
    return num_done, num_failed


def _keep(folder: DataFolder, place: Path, name: str) -> FileObject:
    file = FileObject(
        id=new_id("file-"),
        bytes=place.stat().st_size,
        created_at=int(time.time()),
        filename=name,
        purpose="batch_output",
    )
    folder.keep(place, file.id)
    return file
