"""The record of a job that survives a kill.

The output file is itself the list of finished lines: a result's line number is in its ``id``.
Beside it lies a small record of model, input and plan (``OUT.journal``), so that no run continues
another one's output.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec.structs import replace

from glinthawk.core.errors import JournalError, UsageError
from glinthawk.core.plan import Plan
from glinthawk.jobs.beginning import Beginning
from glinthawk.jobs.failures import Failures
from glinthawk.jobs.finished import Finished, read_finished
from glinthawk.jobs.output import OutputFile
from glinthawk.jobs.record import Record, load_record, plain, save_record
from glinthawk.jobs.retry import is_retried
from glinthawk.jobs.stream import OutputStream, is_stream
from glinthawk.jobs.survey import Survey, open_input, survey_input

__all__ = ["Journal"]

#: A kill loses at most these many results, or those of this many seconds.
_GROUP_RESULTS = 64
_GROUP_S = 1.0
#: Where results come faster than that, groups are larger: after each the disk rests so many times
#: as long as it took, and a tenth of the time is spent waiting for it.
_REST = 9


class Journal:
    """Exactly one result per line, however often the job is killed. Made by ``Journal.open``.

    A ``with`` that ends by an error before the first result leaves the files as they were.
    """

    def __init__(
        self,
        source: Path,
        output: OutputFile | OutputStream,
        record: Record,
        survey: Survey,
        finished: Finished,
        clock: Callable[[], float],
        retry_errors: bool,
        beginning: Beginning,
    ) -> None:
        self.source = source
        self.survey = survey
        self.created = record.created
        self._record = record
        self.num_resumed = finished.num_done
        self._output = output
        self._finished = finished
        self._clock = clock
        self._retry_errors = retry_errors
        self._beginning = beginning
        self._group: list[bytes] = []
        self._group_began = 0.0
        self._rests_until = -math.inf

    @classmethod
    def open(
        cls,
        source: Path,
        output: Path,
        fingerprint: Mapping[str, Any],
        *,
        plan: Plan | None = None,
        restart: bool = False,
        retry_errors: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> "Journal":
        """Begin or resume the job that answers ``source`` in ``output``, by ``plan`` if it follows
        one. Use it with ``with``. An output that is no regular file gets no record. With
        ``retry_errors``, lines whose result is an error lose it when ``settle`` is called.

        Raises JournalError if the output belongs to another model, input or process.
        """
        open_input(source).close()
        if output.exists() and output.samefile(source):
            raise UsageError(f"{output} is the input itself; give another -o")
        beginning = Beginning(output)
        file = OutputStream(output) if is_stream(output) else OutputFile(output)
        try:
            if restart:
                beginning.move_aside(file)
            begun = _begun_record(file)
            survey = survey_input(source, begun.input_bytes if begun else 0)
            if begun is not None:
                begun.check_fingerprint(fingerprint, output)
                begun.check_input(survey, source, output)
            finished = _cut_to_finished(file, output, survey)
            record = _record(begun, survey, fingerprint, plan, int(now()))
            if file.is_kept:
                save_record(output, record)
        except BaseException:
            if file.is_kept and not file.size:
                beginning.undo()
            file.close()
            raise
        return cls(source, file, record, survey, finished, clock, retry_errors, beginning)

    @property
    def num_done(self) -> int:
        """Lines with a result, those of earlier runs included."""
        return self._finished.num_done

    @property
    def num_failed(self) -> int:
        """Lines whose result is an error, those of earlier runs included."""
        return len(self.failures)

    @property
    def failures(self) -> Failures:
        """Those lines, and why."""
        return self._finished.failures

    @property
    def num_to_retry(self) -> int:
        """Errors that are run again."""
        return self.num_failed if self._retry_errors else 0

    def settle(self, resolved: Mapping[str, Any]) -> None:
        """Record what the settings came to on this machine. Raises JournalError if that was
        something else when the job began; where errors are run again, the longest length may have
        grown, and what it may have cut off is run again too."""
        self._record.check_resolved(resolved, self._output.path, may_grow=self._retry_errors)
        if self._retry_errors:
            self._drop(self._record.grown_from(resolved))
        self._record = replace(self._record, resolved=plain(resolved))
        if self._output.is_kept:
            save_record(self._output.path, self._record)

    def _drop(self, outgrown: int | None) -> None:
        if not isinstance(self._output, OutputFile) or not (self.num_failed or outgrown):
            return
        self._output.rewrite(lambda result: not is_retried(result, outgrown))
        self._finished, _ = read_finished(self._output.path, self.survey.num_lines)
        self.num_resumed = self.num_done

    def is_finished(self, line: int) -> bool:
        return line in self._finished

    def append(self, line: int, result: bytes, *, failed: bool) -> None:
        """Take in one result line; it is on disk after the next flush."""
        self._finished.add(line, result, failed=failed)
        if not self._group:
            self._group_began = self._clock()
        self._group.append(result)
        self.tick()

    def tick(self) -> None:
        """Flush if the group is large or old enough; cheap, so call it often."""
        if not self._group:
            return
        now = self._clock()
        is_large = len(self._group) >= _GROUP_RESULTS and now >= self._rests_until
        if is_large or now - self._group_began >= _GROUP_S:
            self.flush()

    def flush(self) -> None:
        """Put every result so far on disk."""
        # Taken out first: what cannot be written now is not tried again by close.
        group, self._group = self._group, []
        if group:
            begun = self._clock()
            self._output.append(b"".join(group))
            ended = self._clock()
            self._rests_until = ended + _REST * (ended - begun)

    def close(self) -> None:
        """Flush and let another run have the output."""
        try:
            self.flush()
        finally:
            self._output.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._output.is_kept and not self.num_done:
            self._beginning.undo()
        self.close()


def _begun_record(file: OutputFile | OutputStream) -> Record | None:
    """The record of a job that has results, or None where nothing would be lost."""
    if not file.size:
        return None
    record = load_record(file.path)
    if record is None:
        raise JournalError(
            f"{file.path} exists but has no journal beside it, so it is not a job to resume; "
            "begin anew with --restart (it is moved aside) or give another -o"
        )
    return record


def _record(
    begun: Record | None,
    survey: Survey,
    fingerprint: Mapping[str, Any],
    plan: Plan | None,
    now: int,
) -> Record:
    return Record(
        created=begun.created if begun else now,
        fingerprint=plain(fingerprint),
        input_bytes=survey.num_bytes,
        input_sha256=survey.sha256,
        resolved=begun.resolved if begun else None,
        plan=asdict(plan) if plan else None,
    )


def _cut_to_finished(file: OutputFile | OutputStream, output: Path, survey: Survey) -> Finished:
    """The results that are whole; what is behind them goes from the file."""
    finished, size = Finished(), 0
    if file.is_kept:
        finished, size = read_finished(output, survey.num_lines)
    file.truncate(size)
    return finished
