"""Jobs between converters, without the command line."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glinthawk.files.conversion import ConversionOptions, open_conversion
from glinthawk.files.request_maker import TableOptions
from job_files import line, run_job

__all__ = ["LINES", "TABLE", "Killed", "files", "run", "table"]

LINES = [line(f"id {n}", prompt=[n], max_tokens=3) for n in range(40)]
TABLE = TableOptions(prompt_column="prompt", endpoint="completions", body={"max_tokens": 3})


class Killed(Exception):
    """Stands for a kill."""


def run(source: object, output: object, kill_after: int | None = None, **options: Any) -> bool:
    """Whether anything had to be done."""
    given = ConversionOptions(input=str(source), output=str(output), **options)
    answered = 0

    def count() -> None:
        nonlocal answered
        answered += 1
        if answered == kill_after:
            raise Killed

    with open_conversion(given) as conversion:
        if conversion.whole_results is not None:
            return False
        conversion.prepare()
        run_job(conversion.requests, conversion.results, on_finish=count, restart=given.restart)
        conversion.finish(has_errors=False)
        return True


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def table(folder: Path, rows: int = 40) -> Path:
    path = folder / "in.parquet"
    pq.write_table(pa.table({"prompt": [[n] for n in range(rows)]}), path)
    return path
