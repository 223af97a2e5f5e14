"""What converters take beside a job: time, and memory that must not grow with the input.

A table or packed file becomes requests, and results become a table or packed file. There is no
model and no job: `python -m bench lines` has the job in between.
"""

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from glinthawk.bench.memory import peak_bytes
from glinthawk.files.kept_columns import KeptColumns
from glinthawk.files.parts import find_parts
from glinthawk.files.request_maker import TableOptions
from glinthawk.files.request_source import RequestSource
from glinthawk.files.spool import write_lines
from glinthawk.files.table_rows import FileTable
from glinthawk.files.target import Target

__all__ = ["FormRow", "run"]

_Write = Callable[[str], None]
_LINES, _QUICK = 2_000_000, 20_000
_TEXT = "A text of a usual length for a row, number {}, which says nothing in particular."
_ASKED = TableOptions(template="Summarise: {{ text }}", body={"max_tokens": 64})
_STEPS = ("read jsonl.gz", "read jsonl.zst", "read json", "read csv", "read parquet")
_ENDS = ("write gz", "write zst", "write parquet", "write parquet with columns")


@dataclass(frozen=True, slots=True)
class FormRow:
    """A step in a process of its own; ``peak`` is its resident memory, in bytes. Lines are of a
    second of a core: what else the machine does is not counted."""

    step: str
    lines: int
    seconds: float
    core_seconds: float
    lines_per_s: int
    peak: int


def run(write: _Write, folder: Path, *, quick: bool = False, lines: int | None = None) -> None:
    """Measure in ``folder``, each step with half of the lines and with all; the last line that is
    written is a JSON object."""
    count = lines or (_QUICK if quick else _LINES)
    rows = []
    for size in (count // 2, count):
        with TemporaryDirectory(dir=folder) as name:
            _write_inputs(Path(name), size)
            for step in (*_STEPS, *_ENDS):
                rows.append(_measure(step, Path(name), size))
                write("  ".join(f"{key} {value}" for key, value in asdict(rows[-1]).items()))
    write(json.dumps({"rows": [asdict(row) for row in rows]}))


def _measure(step: str, folder: Path, count: int) -> FormRow:
    command = [sys.executable, "-m", "bench.file_forms", step, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, busy, peak = map(float, done.stdout.split())
    return FormRow(step, count, round(seconds, 2), round(busy, 2), round(count / busy), int(peak))


def _write_inputs(folder: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    with (folder / "lines").open("w") as plain, (folder / "a.csv").open("w") as table:
        table.write("id,text\n")
        for number in range(count):
            text = _TEXT.format(number)
            body = f'{{"messages":[{{"role":"user","content":"{text}"}}],"max_tokens":64}}'
            plain.write(f'{{"custom_id":"{number}","method":"POST",')
            plain.write(f'"url":"/v1/chat/completions","body":{body}}}\n')
            table.write(f'{number},"{text}"\n')
    with (folder / "lines").open("rb") as plain:
        zstandard.ZstdCompressor().copy_stream(plain, (folder / "a.jsonl.zst").open("wb"))
    with (
        (folder / "lines").open("rb") as plain,
        gzip.open(folder / "a.jsonl.gz", "wb", 1) as packed,
    ):
        packed.writelines(plain)
    with (folder / "lines").open() as plain, (folder / "a.json").open("w") as array:
        array.write("[")
        array.writelines(("," if number else "") + line for number, line in enumerate(plain))
        array.write("]")
    schema = pa.schema([("id", "int64"), ("text", "string")])
    with pq.ParquetWriter(folder / "a.parquet", schema) as writer:
        for begin in range(0, count, 100_000):
            ids = range(begin, min(begin + 100_000, count))
            writer.write_table(
                pa.table({"id": ids, "text": [_TEXT.format(n) for n in ids]}, schema=schema)
            )
    _write_results(folder / "results", count)


def _write_results(path: Path, count: int) -> None:
    """As they come: a little out of order."""
    with path.open("w") as file:
        for begin in range(0, count, 512):
            for number in reversed(range(begin, min(begin + 512, count))):
                message = json.dumps({"role": "assistant", "content": _TEXT.format(number)})
                choice = f'{{"index":0,"message":{message},"logprobs":null,"finish_reason":"stop"}}'
                usage = '{"prompt_tokens":20,"completion_tokens":20,"total_tokens":40}'
                file.write(f'{{"id":"batch_req_{number:09}","custom_id":"{number}","response":')
                file.write(f'{{"status_code":200,"body":{{"choices":[{choice}],"usage":{usage}}}}}')
                file.write(',"error":null}\n')


def _step(step: str, folder: Path) -> None:
    action, _, form = step.partition(" ")
    if action == "read":
        is_table = form in ("csv", "parquet")
        source = RequestSource(str(folder / f"a.{form}"), _ASKED if is_table else TableOptions())
        write_lines(source, folder / "requests", None)
        return
    kind, _, columns = form.partition(" with ")
    parts = find_parts(str(folder / "a.parquet"))
    kept = KeptColumns([FileTable(part) for part in parts], None, None) if columns else None
    Target(str(folder / f"out.{kind}")).write(folder / "results", kept)


if __name__ == "__main__":
    begun, busy = time.perf_counter(), time.process_time()
    _step(sys.argv[1], Path(sys.argv[2]))
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    sys.stdout.write(f"{seconds} {busy} {peak_bytes()}\n")
