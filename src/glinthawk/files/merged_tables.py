"""Parquet files of several shards become one, a batch in memory at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

from glinthawk.files.byte_streams import telling_damage
from glinthawk.files.extras import load_extra
from glinthawk.files.repeated_ids import RepeatedIds

__all__ = ["count_rows", "join_tables", "read_ids"]

#: Of each file at a time.
_ROWS = 1024


def join_tables(
    path: Path, parts: Sequence[Path], ids: RepeatedIds, *, in_turn: bool
) -> tuple[int, int]:
    """Rows, and errors among them; the custom_ids of answers go to ``ids``. ``in_turn`` takes a row
    of each part, as shards were dealt, else one part comes after another."""
    arrow, parquet = load_extra("pyarrow", "Parquet"), load_extra("pyarrow.parquet", "Parquet")
    count = errors = 0
    with ExitStack() as stack:
        stack.enter_context(telling_damage(", ".join(map(str, parts))))
        files = [stack.enter_context(parquet.ParquetFile(part)) for part in parts]
        schema = arrow.unify_schemas([file.schema_arrow for file in files])
        writer = stack.enter_context(parquet.ParquetWriter(path, schema, compression="zstd"))
        tables = [_even_tables(file, arrow, schema) for file in files]
        for table in _in_turn(tables, arrow) if in_turn else (t for one in tables for t in one):
            count += len(table)
            errors += len(table) - table.column("error").null_count
            ids.add(_answered(table))
            writer.write_table(table)
    return count, errors


def count_rows(path: Path) -> int:
    """Of a Parquet file."""
    parquet = load_extra("pyarrow.parquet", "Parquet")
    with telling_damage(str(path)), parquet.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def read_ids(path: Path) -> Iterator[str]:
    """The custom_ids of a Parquet file's answers."""
    parquet = load_extra("pyarrow.parquet", "Parquet")
    with telling_damage(str(path)), parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS, columns=["custom_id", "error"]):
            yield from _answered(batch)


def _answered(table: Any) -> list[str]:
    rows = zip(table["custom_id"].to_pylist(), table["error"].to_pylist(), strict=True)
    return [name for name, error in rows if name is not None and error is None]


def _even_tables(file: Any, arrow: Any, schema: Any) -> Iterator[Any]:
    """Of as many rows each, but for the last."""
    left = schema.empty_table()
    for batch in file.iter_batches(_ROWS):
        left = arrow.concat_tables([left, arrow.Table.from_batches([batch]).cast(schema)])
        while len(left) >= _ROWS:
            yield left.slice(0, _ROWS)
            left = left.slice(_ROWS)
    if len(left):
        yield left


def _in_turn(tables: Sequence[Iterator[Any]], arrow: Any) -> Iterator[Any]:
    for level in zip_longest(*tables):
        there = [table for table in level if table is not None]
        begins = [0, *accumulate(map(len, there))]
        order = [
            begin + row
            for row in range(max(map(len, there)))
            for begin, table in zip(begins, there, strict=False)
            if row < len(table)
        ]
        yield arrow.concat_tables(there).take(order)
