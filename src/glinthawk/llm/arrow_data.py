"""Arrow in, Arrow out: tables, and readers of record batches."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from glinthawk.files.extras import load_extra
from glinthawk.llm.output_columns import Answers, answers_schema, to_batch
from glinthawk.llm.row_answers import AnsweredRow, NamedRow

__all__ = ["ArrowReader", "ArrowTable"]

_ROWS = 1024


class ArrowTable:
    """All in memory."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.columns: tuple[str, ...] | None = tuple(data.column_names)
        self.size: int | None = len(data)

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        chosen = self._data if columns is None else self._data.select(list(columns))
        for batch in chosen.to_batches(max_chunksize=_ROWS):
            yield from ((None, row) for row in batch.to_pylist())

    def collect(self, answers: Answers) -> Any:
        beside, table = to_batch(answers()), self._data
        for name in beside.schema.names:
            table = table.append_column(name, beside.column(name))
        return table


class ArrowReader:
    """Read once; each record batch is given on when all of its rows are answered."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.columns: tuple[str, ...] | None = tuple(data.schema.names)
        self.size: int | None = None

    def rows(self, columns: Sequence[str] | None) -> Iterator[NamedRow]:
        for batch in self._data:
            chosen = batch if columns is None else batch.select(list(columns))
            yield from ((batch, row) for row in chosen.to_pylist())

    def collect(self, answers: Answers) -> Any:
        arrow = load_extra("pyarrow", "Arrow")
        schema = arrow.unify_schemas([self._data.schema, answers_schema()])
        return arrow.RecordBatchReader.from_batches(schema, _batches(answers(), schema))


def _batches(answers: Iterator[AnsweredRow], schema: Any) -> Iterator[Any]:
    arrow = load_extra("pyarrow", "Arrow")
    for first in answers:
        batch, _ = first
        beside = to_batch(chain([first], islice(answers, len(batch) - 1)))
        yield arrow.record_batch([*batch.columns, *beside.columns], schema=schema)
