"""The rows of a table, from whatever it lies in."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.files.byte_streams import telling_damage
from glinthawk.files.contents import Content, Form, open_content
from glinthawk.files.extras import load_extra
from glinthawk.files.json_values import JsonValues
from glinthawk.files.parts import Part

__all__ = ["FileTable", "Row", "Table"]

Row = dict[str, Any]

#: At a time.
_ROWS = 1024
_LONGEST_CELL = 1 << 30


class Table(Protocol):
    """``columns`` is None where every row may have others. Rows are read anew each time."""

    name: str

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Their names, in order."""

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Each with at least these ``columns``; all of them if None."""

    def arrow_schema(self) -> Any | None:
        """Arrow's, where the table has types of its own."""

    def arrow_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow's record batches with these ``columns``, of a table that has a schema."""


class FileTable:
    """Of one file. What is wrong with it is a UsageError that names it."""

    def __init__(self, part: Part) -> None:
        self._part, self.name = part, part.name

    @property
    def columns(self) -> tuple[str, ...] | None:
        if self._part.stamp is None:
            return None
        with telling_damage(self.name), open_content(self._part, is_table=True) as content:
            if content.form is Form.PARQUET:
                return tuple(_parquet(content).schema_arrow.names)
            if content.form is Form.CSV:
                return tuple(_csv_header(_csv_reader(content, self.name), self.name))
        return None

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        with telling_damage(self.name), open_content(self._part, is_table=True) as content:
            match content.form:
                case Form.PARQUET:
                    yield from _parquet_rows(content, columns)
                case Form.CSV:
                    yield from _csv_rows(content, self.name)
                case Form.VALUES:
                    yield from map(self._object, JsonValues(content.stream, self.name))
                case Form.LINES:
                    lines = (line for line in content.stream if not line.isspace())
                    yield from map(self._object, lines)

    def arrow_schema(self) -> Any | None:
        with telling_damage(self.name), open_content(self._part, is_table=True) as content:
            return _parquet(content).schema_arrow if content.form is Form.PARQUET else None

    def arrow_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        with telling_damage(self.name), open_content(self._part, is_table=True) as content:
            yield from _parquet(content).iter_batches(_ROWS, columns=list(columns))

    def _object(self, text: str | bytes) -> Row:
        try:
            return msgspec.json.decode(text, type=Row)
        except msgspec.DecodeError as error:
            shown = text[:60].decode(errors="replace") if isinstance(text, bytes) else text[:60]
            raise UsageError(
                f"{self.name} has a row that is no JSON object ({error}): {shown.strip()}; "
                "correct it"
            ) from error


def _parquet(content: Content) -> Any:
    parquet = load_extra("pyarrow.parquet", "Parquet")
    return parquet.ParquetFile(content.stream)


def _parquet_rows(content: Content, columns: Sequence[str] | None) -> Iterator[Row]:
    file = _parquet(content)
    known = file.schema_arrow.names
    wanted = None if columns is None else [name for name in columns if name in known]
    for batch in file.iter_batches(_ROWS, columns=wanted):
        yield from batch.to_pylist()


def _csv_reader(content: Content, name: str) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    text = io.TextIOWrapper(content.stream, encoding="utf-8", newline="")
    head = content.stream.peek(_ROWS).partition(b"\n")[0]  # type: ignore[attr-defined]
    return csv.reader(text, delimiter=_delimiter(head), strict=True)


def _delimiter(head: bytes) -> str:
    """A comma; else what a header of several columns has in place of it."""
    return next((sign for sign in ",\t;" if sign.encode() in head), ",")


def _csv_header(reader: Iterator[list[str]], name: str) -> list[str]:
    header = next(reader, [])
    if not header:
        raise UsageError(f"{name} has no header; write the columns' names in its first line")
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise UsageError(f"{name} has two columns {twice[0]!r}; give each a name of its own")
    return header


def _csv_rows(content: Content, name: str) -> Iterator[Row]:
    reader: Any = _csv_reader(content, name)
    header = _csv_header(reader, name)
    for cells in reader:
        if len(cells) == len(header):
            yield dict(zip(header, cells, strict=True))
        elif cells:
            raise UsageError(
                f"{name}, line {reader.line_num}: {len(cells)} cells for {len(header)} columns; "
                "quote cells that have the delimiter in them"
            )
