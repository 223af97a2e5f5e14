"""Results as a Parquet file, a row for each line of the input, in its order."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from glinthawk.core.errors import JournalError
from glinthawk.files.answer_rows import ANSWER_COLUMNS, read_answer
from glinthawk.files.extras import load_extra
from glinthawk.files.kept_columns import KeptColumns
from glinthawk.files.results_by_line import ResultsByLine

__all__ = ["answer_batch", "write_table"]

#: Of a row group.
_ROWS, _BYTES = 1 << 14, 1 << 26


def write_table(results: Path, path: Path, kept: KeptColumns | None) -> None:
    """Write the results of a whole job to ``path``, with the columns ``kept`` before them."""
    arrow, parquet = load_extra("pyarrow", "Parquet"), load_extra("pyarrow.parquet", "Parquet")
    own = arrow.schema([(name, _type(arrow, kind)) for name, kind in ANSWER_COLUMNS.items()])
    schema = own if kept is None else arrow.unify_schemas([kept.schema, own])
    answers = (read_answer(result) for _, result in ResultsByLine(results))
    batches = _alone(answers, own) if kept is None else _beside(answers, own, kept, schema)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in _grouped(batches):
            writer.write_table(table, row_group_size=len(table))


def _type(arrow: Any, kind: str) -> Any:
    inner = kind.removeprefix("list<").removesuffix(">")
    return arrow.type_for_alias(kind) if inner == kind else arrow.list_(arrow.type_for_alias(inner))


def _alone(answers: Iterator[tuple[Any, ...]], own: Any) -> Iterator[Any]:
    while rows := list(islice(answers, 1024)):
        yield answer_batch(rows, own)


def _beside(
    answers: Iterator[tuple[Any, ...]], own: Any, kept: KeptColumns, schema: Any
) -> Iterator[Any]:
    arrow = load_extra("pyarrow", "Parquet")
    for batch in kept.batches():
        rows = list(islice(answers, len(batch)))
        if len(rows) < len(batch):
            raise JournalError("the input has more rows than there are results; run again")
        columns = [*batch.columns, *answer_batch(rows, own).columns]
        yield arrow.record_batch(columns, schema=schema)
    if next(answers, None) is not None:
        raise JournalError("the input has fewer rows than there are results; put the old one back")


def answer_batch(rows: list[tuple[Any, ...]], schema: Any) -> Any:
    """A record batch of Arrow's, with a value of each row for each field of ``schema``."""
    arrow = load_extra("pyarrow", "Parquet")
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [arrow.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    return arrow.record_batch(arrays, schema=schema)


def _grouped(batches: Iterator[Any]) -> Iterator[Any]:
    """Tables that are large enough for a row group, and not larger than memory likes."""
    arrow = load_extra("pyarrow", "Parquet")
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if sum(map(len, group)) >= _ROWS or sum(one.nbytes for one in group) >= _BYTES:
            yield arrow.Table.from_batches(group)
            group = []
    if group:
        yield arrow.Table.from_batches(group)
