"""One list of rows in every form in which people have tables."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from input_forms import as_lines

__all__ = ["TABLES", "Rows"]

Rows = list[dict[str, Any]]


def _csv(path: Path, rows: Rows, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _dataset(path: Path, rows: Rows) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(path)


TABLES: dict[str, Callable[[Path, Rows], object]] = {
    "rows.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "rows.csv": _csv,
    "rows.tsv": lambda path, rows: _csv(path, rows, "\t"),
    "semicolons.csv": lambda path, rows: _csv(path, rows, ";"),
    "csv-without-its-ending": _csv,
    "rows.jsonl": lambda path, rows: path.write_bytes(as_lines(rows)),
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "saved": _dataset,
}
