"""Columns of the input's tables, to stand beside the answers."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from glinthawk.core.errors import UsageError
from glinthawk.files.answer_rows import ANSWER_COLUMNS
from glinthawk.files.extras import load_extra
from glinthawk.files.shard import Shard
from glinthawk.files.table_rows import Row, Table

__all__ = ["KeptColumns"]

_ROWS = 1024


class KeptColumns:
    """``names`` of ``tables``, or all of their columns if None, of a shard's rows or of all.

    Opened at once; raises UsageError where the tables do not go together, or a column is missing
    or has the name of an answer's.
    """

    def __init__(
        self, tables: Sequence[Table], names: Sequence[str] | None, shard: Shard | None
    ) -> None:
        self._arrow = load_extra("pyarrow", "Parquet")
        self._tables, self._shard = tables, shard
        self.schema = self._select(self._unified(), names)

    def _unified(self) -> Any:
        found = [table.arrow_schema() or self._inferred(table) for table in self._tables]
        try:
            return self._arrow.unify_schemas(found, promote_options="permissive")
        except (self._arrow.ArrowInvalid, self._arrow.ArrowTypeError) as error:
            raise UsageError(
                f"the tables of -i have columns of different types ({error}); make them alike, or "
                "leave --keep-columns out"
            ) from error

    def _select(self, schema: Any, names: Sequence[str] | None) -> Any:
        chosen = schema.names if names is None else names
        for name in chosen:
            if name not in schema.names:
                raise UsageError(
                    f"--keep-columns: there is no column {name}; there are "
                    f"{', '.join(schema.names)}"
                )
            if name in ANSWER_COLUMNS:
                raise UsageError(
                    f"--keep-columns: {name} is a column of the answers, too; rename it, or name "
                    "the ones to keep"
                )
        return self._arrow.schema([schema.field(name) for name in chosen])

    def _inferred(self, table: Table) -> Any:
        """Of a table whose rows alone say what they are: they are read once for it."""
        schema = self._arrow.schema([])
        for rows in _chunks(table.rows()):
            names = dict.fromkeys(name for row in rows for name in row)
            try:
                arrays = {
                    name: self._arrow.array([row.get(name) for row in rows]) for name in names
                }
                schema = self._arrow.unify_schemas(
                    [schema, self._arrow.table(arrays).schema], promote_options="permissive"
                )
            except (self._arrow.ArrowInvalid, self._arrow.ArrowTypeError) as error:
                raise UsageError(
                    f"{table.name} has a column with values of different types ({error}); make "
                    "them alike, or leave --keep-columns out"
                ) from error
        return schema

    def batches(self) -> Iterator[Any]:
        """Record batches, in the rows' order."""
        number = 0
        for table in self._tables:
            for batch in self._of(table):
                yield self._share(batch, number)
                number += len(batch)

    def _of(self, table: Table) -> Iterator[Any]:
        names = self.schema.names
        if (own := table.arrow_schema()) is None:
            for rows in _chunks(table.rows(names)):
                columns = [
                    self._arrow.array([row.get(field.name) for row in rows], type=field.type)
                    for field in self.schema
                ]
                yield self._arrow.record_batch(columns, schema=self.schema)
            return
        there = [name for name in names if name in own.names]
        # Without any of the columns it still says how many rows there are.
        for batch in table.arrow_batches(there or own.names[:1]):
            yield self._filled(batch)

    def _filled(self, batch: Any) -> Any:
        """With nulls for the columns that other tables have."""
        columns = [
            batch.column(field.name).cast(field.type)
            if field.name in batch.schema.names
            else self._arrow.nulls(len(batch), field.type)
            for field in self.schema
        ]
        return self._arrow.record_batch(columns, schema=self.schema)

    def _share(self, batch: Any, begin: int) -> Any:
        if self._shard is None:
            return batch
        first = (self._shard.number - 1 - begin) % self._shard.count
        return batch.take(self._arrow.array(range(first, len(batch), self._shard.count), "int64"))


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, _ROWS)):
        yield chunk
