"""What ``-i`` means: lines of a batch file, or tables whose rows become such lines."""

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from glinthawk.core.errors import UsageError
from glinthawk.files.byte_streams import telling_damage
from glinthawk.files.contents import Form, open_content
from glinthawk.files.dataset_table import DatasetTable, is_dataset
from glinthawk.files.json_values import JsonValues
from glinthawk.files.parts import Part, find_parts
from glinthawk.files.places import is_url, without_secrets
from glinthawk.files.request_maker import RequestMaker, TableOptions
from glinthawk.files.table_rows import FileTable, Table

__all__ = ["RequestSource"]

#: Counted up when what a source is made into changes.
_FORMAT = 1


class RequestSource:
    """The lines of an input, whatever it is, without the files of ``own`` (see ``find_parts``).
    Raises UsageError at once for what is not there."""

    def __init__(
        self,
        place: str,
        options: TableOptions,
        split: str | None = None,
        own: Sequence[str] = (),
    ) -> None:
        self.place, self.options = place, options
        self._parts: list[Part] = []
        self.tables: Sequence[Table] = ()
        self._stamps: list[str | None]
        if is_dataset(place):
            dataset = DatasetTable(place, split)
            self.tables, self._stamps = [dataset], [dataset.stamp]
            if not options.is_given:
                raise _unasked(place, dataset.columns)
        elif split is not None:
            raise UsageError(
                f"--split is for a dataset, and {without_secrets(place)} is none; leave it out"
            )
        else:
            self._parts = find_parts(place, own)
            self._stamps = [part.stamp for part in self._parts]
            if options.is_given:
                self.tables = [FileTable(part) for part in self._parts]
        self._maker = RequestMaker(options) if options.is_given else None
        if self._maker is not None:
            self._check_columns(self._maker)

    def _check_columns(self, maker: RequestMaker) -> None:
        for table in self.tables:
            if (columns := table.columns) is not None:
                maker.check_columns(columns, table.name)

    @property
    def is_lasting(self) -> bool:
        """Whether it can be read again."""
        return None not in self._stamps

    @property
    def digest(self) -> str | None:
        """Another one if the lines may be others; None of what can be read once only."""
        if not self.is_lasting:
            return None
        names = [part.name for part in self._parts]
        facts = [_FORMAT, self.place, names, self._stamps, self.options.describe()]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()

    def plain_file(self) -> Path | None:
        """The input itself, if it is a batch file that a job can read in place."""
        if len(self._parts) != 1 or self.tables or is_url(self.place):
            return None
        (part,) = self._parts
        if part.stamp is None:
            return None
        with telling_damage(part.name), open_content(part) as content:
            is_plain = content.form is Form.LINES and content.is_plain
        return Path(part.name) if is_plain else None

    def lines(self) -> Generator[bytes, None, None]:
        """Each with its end."""
        if self._maker is None:
            for part in self._parts:
                yield from _lines_of(part)
            return
        number, maker = 0, self._maker
        columns = None if maker.columns is None else sorted(maker.columns)
        for table in self.tables:
            for row in table.rows(columns):
                if not number:
                    _check_row(maker, row, table.name)
                yield maker.make(number, row)
                number += 1


def _check_row(maker: RequestMaker, row: dict[str, Any], name: str) -> None:
    """Of a table whose columns are known by its rows alone, the first stands for all."""
    maker.check_columns(tuple(row), name)


def _lines_of(part: Part) -> Iterator[bytes]:
    with telling_damage(part.name), open_content(part) as content:
        match content.form:
            case Form.LINES:
                for line in content.stream:
                    yield line if line.endswith(b"\n") else line + b"\n"
            case Form.VALUES:
                for value in JsonValues(content.stream, part.name):
                    yield value.encode() + b"\n"
            case _:
                raise _unasked(part.name, FileTable(part).columns)


def _unasked(name: str, columns: Sequence[str] | None) -> UsageError:
    which = f" Its columns are {', '.join(columns)}." if columns else ""
    return UsageError(
        f"{name} is a table: say what of a row is asked, with --prompt-column, --messages-column "
        f"or --template.{which}"
    )
