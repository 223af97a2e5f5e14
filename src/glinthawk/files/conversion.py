"""A job's two ends: what becomes of its input before it, and of its results after it."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from glinthawk.core.errors import JournalError, UsageError
from glinthawk.files.drafts import drafted
from glinthawk.files.kept_columns import KeptColumns
from glinthawk.files.own_files import own_names
from glinthawk.files.places import is_url, without_secrets
from glinthawk.files.request_maker import TableOptions
from glinthawk.files.request_source import RequestSource
from glinthawk.files.restart import Restart
from glinthawk.files.shard import Shard
from glinthawk.files.source_record import (
    SourceRecord,
    load_source_record,
    save_source_record,
    source_record_path,
)
from glinthawk.files.spool import write_lines
from glinthawk.files.target import Target, TargetForm
from glinthawk.jobs.record import load_record
from glinthawk.jobs.survey import survey_input

__all__ = ["Conversion", "ConversionOptions", "open_conversion"]

_ANEW = "begin anew with --restart, or give another -o"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What people say of their files. ``keep_columns`` is None for none, () for all; ``written``
    are other files that the run writes."""

    input: str
    output: str
    table: TableOptions = field(default_factory=TableOptions)
    split: str | None = None
    keep_columns: tuple[str, ...] | None = None
    shard: Shard | None = None
    work_dir: Path | None = None
    restart: bool = False
    written: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        is_table = Target(self.output).form is TargetForm.PARQUET
        if self.keep_columns is not None and not (is_table and self.table.is_given):
            raise UsageError(
                "--keep-columns is for a table as -i, with --prompt-column, --messages-column or "
                "--template, and Parquet as -o"
            )


@contextmanager
def open_conversion(options: ConversionOptions) -> Iterator["Conversion"]:
    """Beside an output that can be resumed lies what the converters need; beside another one,
    nothing does. Raises UsageError for whatever could only fail later, JournalError where there is
    another job's output."""
    target = Target(options.output)
    target.check()
    outputs = (options.output, _base(options, target), *options.written)
    own = own_names([str(output) for output in outputs])
    source = RequestSource(options.input, options.table, options.split, own)
    if target.is_stream:
        with tempfile.TemporaryDirectory(prefix="glinthawk-", dir=options.work_dir) as folder:
            yield Conversion(options, source, target, Path(folder) / "output")
        return
    conversion = Conversion(options, source, target, _base(options, target))
    try:
        yield conversion
    finally:
        conversion.settle()


def _base(options: ConversionOptions, target: Target) -> Path:
    """What the files beside the output are named after."""
    if options.work_dir is not None:
        return options.work_dir / target.name
    return Path(target.name) if is_url(target.place) else target.path


class Conversion:
    """``requests`` is a batch file to answer in ``results``, once ``prepare`` has been called;
    ``finish`` makes the output of them. Where both are JSONL files, nothing is done at all."""

    def __init__(
        self, options: ConversionOptions, source: RequestSource, target: Target, base: Path
    ) -> None:
        self._options, self._source, self.target, self._base = options, source, target, base
        self._spooled = base.with_name(base.name + ".requests.jsonl")
        in_place = None if options.shard else source.plain_file()
        self.requests = in_place or self._spooled
        self.results = target.path if target.is_plain else _beside(base, ".results.jsonl")
        self._is_converted = in_place is None or not target.is_plain
        self._kept: KeptColumns | None = None
        self._restart: Restart | None = None
        self._record = SourceRecord(
            source=without_secrets(options.input),
            target=target.shown,
            digest=self._digest(),
            shard=str(options.shard) if options.shard else None,
        )
        self._before = None if options.restart else load_source_record(base)

    def _digest(self) -> str | None:
        digest = self._source.digest
        return digest and f"{digest},{self._options.shard},{self._options.keep_columns}"

    @property
    def whole_results(self) -> SourceRecord | None:
        """Of an earlier run, if all is there already that the command would make."""
        before = self._before
        if before is None or before.digest is None or before.digest != self._record.digest:
            return None
        return before if self._is_whole(before) else None

    def _is_whole(self, before: SourceRecord) -> bool:
        return (
            before.whole is not None
            and (before.target, before.shard) == (self._record.target, self._record.shard)
            and self.results.is_file()
            and self.results.stat().st_size == before.whole
            and self.target.exists()
            and load_record(self.results) is not None
        )

    def prepare(self) -> SourceRecord | None:
        """Write the requests, if they are not there. Returns the record of a job whose results are
        all there, if nothing came by its pipe this time."""
        if self._is_converted:
            self._check_target()
            self._open_kept()
        if self._options.restart and not self.target.is_stream:
            records = [source_record_path(base) for base in self._bases()]
            self._restart = Restart(self.target, self.results, [self._spooled, *records])
        if self.requests == self._spooled:
            return self._spool()
        if self._is_converted and not self.target.is_stream:
            self._save(self._record)
        return None

    def _open_kept(self) -> None:
        if self._options.keep_columns is None:
            return
        if not self._source.is_lasting:
            raise UsageError("--keep-columns reads the input again; save it as a file first")
        self._kept = KeptColumns(
            self._source.tables, self._options.keep_columns or None, self._options.shard
        )

    def _check_target(self) -> None:
        """The output, and what lies beside it, must be this job's."""
        before = self._before
        has_results = self.results.is_file() and self.results.stat().st_size
        if has_results and before is not None and before.target != self._record.target:
            raise JournalError(
                f"{self.results} has results of {before.target}; give another --work-dir"
            )
        if self.target.is_plain or has_results or self._options.restart:
            return
        if self.target.exists():
            raise JournalError(f"{self.target.shown} exists and is not of a job here; {_ANEW}")

    def _spool(self) -> SourceRecord | None:
        before = self._before
        is_there = before is not None and before.whole is None and self._spooled.exists()
        if is_there and before is not None and self._is_of(before):
            self._record = before
            return None
        with drafted(self._spooled) as draft:
            num_lines, num_requests = write_lines(self._source, draft, self._options.shard)
            is_empty = not num_lines and not self._source.is_lasting
            if is_there and before is not None and is_empty:
                # Nothing came by the pipe: the job goes on with what came before.
                shutil.copyfile(self._spooled, draft)
                self._record = before
                return None
            is_whole = before is not None and is_empty and self._is_whole(before)
            if not is_whole:
                self._begin(draft, num_lines, num_requests)
        if is_whole:
            self._spooled.unlink()
        return before if is_whole else None

    def _begin(self, draft: Path, num_lines: int, num_requests: int) -> None:
        self._record = replace(self._record, num_lines=num_lines, num_requests=num_requests)
        self._check_begun(draft)
        # A record never stands beside the requests of another one, whenever a kill comes.
        self._spooled.unlink(missing_ok=True)
        if not self.target.is_stream:
            self._save(self._record)

    def _save(self, record: SourceRecord) -> None:
        """Beside the output too, if the work is done elsewhere: `glinthawk merge` looks there."""
        for base in self._bases():
            save_source_record(base, record)

    def _bases(self) -> list[Path]:
        is_elsewhere = not is_url(self.target.place) and self.target.path != self._base
        return [self._base, self.target.path] if is_elsewhere else [self._base]

    def _is_of(self, before: SourceRecord) -> bool:
        """Whether what was written ``before`` is what would be written now."""
        if self._record.digest is None:
            return before.digest is None and not self._source.is_lasting and sys.stdin.isatty()
        return before.digest == self._record.digest

    def _check_begun(self, draft: Path) -> None:
        """The job goes on with the requests that it was begun with, perhaps with more of them."""
        if self._options.restart or not self.results.is_file() or not self.results.stat().st_size:
            return
        if (begun := load_record(self.results)) is not None:
            survey = survey_input(draft, begun.input_bytes)
            begun.check_input(survey, Path(self._options.input), Path(self._options.output))

    def finish(self, *, has_errors: bool) -> None:
        """Every line has its result: make the output, and remove the requests."""
        if not self._is_converted or self.target.is_stream:
            return
        if not self.target.is_plain:
            self.target.write(self.results, self._kept)
        size = self.results.stat().st_size
        whole = replace(self._record, whole=size, has_errors=has_errors)
        self._save(whole)
        if self.requests == self._spooled:
            self._spooled.unlink(missing_ok=True)

    def settle(self) -> None:
        """At the end of all: a restart that came to nothing leaves the files as they were."""
        if self._restart is not None:
            self._restart.settle()


def _beside(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)
