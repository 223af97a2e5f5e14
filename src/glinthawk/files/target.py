"""What ``-o`` means: in which form results go where."""

import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.files.answer_table import write_table
from glinthawk.files.drafts import drafted
from glinthawk.files.extras import load_extra
from glinthawk.files.kept_columns import KeptColumns
from glinthawk.files.packed_results import pack_gzip, pack_zstd
from glinthawk.files.places import STANDARD, is_url, resolve_url, telling_failures, without_secrets
from glinthawk.jobs.stream import is_stream

__all__ = ["Target", "TargetForm"]

_STDOUT = Path("/dev/stdout")
#: Forms that are read, or that people know; none of them is lines of JSON.
_NOT_MADE = (".csv", ".tsv", ".bz2", ".xz", ".zip", ".arrow", ".feather", ".xlsx")


class TargetForm(Enum):
    """Known by the end of the name."""

    LINES = ""
    GZIP = ".gz"
    ZSTD = ".zst"
    PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class Target:
    """An output: a path, a URL, or ``-``."""

    place: str

    @property
    def form(self) -> TargetForm:
        name = self.place.lower()
        if name.endswith(".pq"):
            return TargetForm.PARQUET
        named = (form for form in TargetForm if form.value and name.endswith(form.value))
        return next(named, TargetForm.LINES)

    @property
    def is_stream(self) -> bool:
        """Whether results only pass through it."""
        if self.place == STANDARD:
            return True
        return not is_url(self.place) and is_stream(Path(self.place))

    @property
    def is_plain(self) -> bool:
        """Whether a job appends its results there itself."""
        return self.is_stream or (not is_url(self.place) and self.form is TargetForm.LINES)

    @property
    def path(self) -> Path:
        """Of what is no URL."""
        return _STDOUT if self.place == STANDARD else Path(self.place)

    @property
    def name(self) -> str:
        """The last part of its path, for files that lie elsewhere."""
        return Path(self.place.rstrip("/")).name

    @property
    def shown(self) -> str:
        """To be told and stored."""
        return without_secrets(self.place)

    def check(self) -> None:
        """Raise UsageError for what could not be written at the end: a store that is not there, or
        a library, or a form that is not made."""
        if not self.is_stream and self.place.lower().endswith(_NOT_MADE):
            raise UsageError(
                f"-o {self.shown}: no such file is made; give a name in .jsonl, .gz, .zst or "
                ".parquet"
            )
        if self.form is TargetForm.PARQUET:
            load_extra("pyarrow.parquet", f"-o {self.shown}")
        if self.form is TargetForm.ZSTD:
            load_extra("zstandard", f"-o {self.shown}")
        if is_url(self.place):
            if self.place.endswith("/"):
                raise UsageError(f"-o {self.shown} is a folder; give a file in it")
            resolve_url(self.place)

    def exists(self) -> bool:
        """Whether something is there, a finished output or another's."""
        if not is_url(self.place):
            return self.path.exists()
        system, path = resolve_url(self.place)
        with telling_failures("reach", self.place):
            return bool(system.exists(path))

    def write(self, results: Path, kept: KeptColumns | None) -> None:
        """Make it of the ``results`` of a whole job, in one go. A URL's is made beside them, and
        uploaded, in parts where the store has them."""
        if not is_url(self.place):
            with drafted(self.path) as draft:
                self._convert(results, draft, kept)
        elif self.form is TargetForm.LINES:
            self._upload(results)
        else:
            with drafted(results.with_name(self.name)) as draft:
                self._convert(results, draft, kept)
            made = results.with_name(self.name)
            self._upload(made)
            made.unlink()

    def _upload(self, file: Path) -> None:
        system, path = resolve_url(self.place)
        with telling_failures("write", self.place):
            system.put_file(str(file), path)

    def _convert(self, results: Path, path: Path, kept: KeptColumns | None) -> None:
        match self.form:
            case TargetForm.PARQUET:
                write_table(results, path, kept)
            case TargetForm.GZIP:
                pack_gzip(results, path)
            case TargetForm.ZSTD:
                pack_zstd(results, path)
            case TargetForm.LINES:
                shutil.copyfile(results, path)
