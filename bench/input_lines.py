"""What a line of a job takes without a model: the most memory, and time.

All but the model is a run's own: input, duplicates, engine, scheduler, result lines, journal. The
first half of the lines is answered, then the job is left and resumed, as after a kill.
"""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from glinthawk.bench.memory import peak_bytes
from glinthawk.bench.stub import Instant
from glinthawk.core.limits import Limits
from glinthawk.engine.engine import Engine
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.text import Text
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.tier2.worker_memory import resident_bytes

__all__ = ["LinesRow", "run"]

_Write = Callable[[str], None]
#: Bytes of memory that a line of the input may take for the whole job.
_ROOF = 16
#: What makes the kernel forget the peak: proc(5), clear_refs.
_FORGET_PEAK = "5"
_LINES, _QUICK = 10_000_000, 20_000
_WARM_UP = 20_000
_ROWS, _PAGES = 512, 4096
_LIMITS = Limits(max_model_len=64, kv_tokens=1024, vocab_size=320)


@dataclass(frozen=True, slots=True)
class LinesRow:
    """A part of the job; memory is resident memory, in bytes."""

    part: str
    lines: int
    seconds: float
    core_s: float
    #: Of a core's time: on a busy machine only that says something.
    lines_per_s: int
    #: Before it began, and at most.
    before: int
    peak: int
    #: Of the difference, for each line of the whole input.
    bytes_a_line: float


def run(write: _Write, folder: Path, *, quick: bool = False, lines: int | None = None) -> None:
    """Measure in ``folder``, where a line needs some 500 bytes; the last line that is written is
    a JSON object."""
    count = lines or (_QUICK if quick else _LINES)
    write(f"roof: {_ROOF} bytes of memory a line of {count}")
    with TemporaryDirectory(dir=folder) as name:
        _measure("warm-up", _write_input(Path(name) / "warm-up", _WARM_UP), _WARM_UP, _WARM_UP)
        source = _write_input(Path(name) / "in", count)
        rows = []
        for part, upto in (("begun", count // 2), ("resumed", count)):
            rows.append(_measure(part, source, count, upto))
            write("  ".join(f"{key} {value}" for key, value in asdict(rows[-1]).items()))
    write(json.dumps({"roof": _ROOF, "rows": [asdict(row) for row in rows]}))


def _write_input(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number in range(count):
            body = f'{{"prompt":[{number % 300},1,2],"max_tokens":1}}'
            file.write(f'{{"custom_id":"request-{number}","method":"POST",')
            file.write(f'"url":"/v1/completions","body":{body}}}\n')
    return path


def _measure(part: str, source: Path, count: int, upto: int) -> LinesRow:
    """Answer lines until ``upto`` have a result."""
    _reset_peak()
    before, begun, core_begun = resident_bytes(), time.perf_counter(), time.process_time()
    answered = _answer(source, upto)
    seconds, core_s = time.perf_counter() - begun, time.process_time() - core_begun
    peak = peak_bytes()
    return LinesRow(
        part,
        answered,
        round(seconds, 2),
        round(core_s, 2),
        round(answered / core_s),
        before,
        peak,
        round((peak - before) / count, 2),
    )


def _reset_peak() -> None:
    """The peak is what is there now. Raises OSError where the kernel cannot do that."""
    Path("/proc/self/clear_refs").write_text(_FORGET_PEAK)


def _answer(source: Path, upto: int) -> int:
    """Lines answered."""
    engine = Engine(Instant(_PAGES), BatchLimits(_ROWS, 1, 1 << 20))
    with Journal.open(source, source.with_name(source.name + ".out"), {}) as journal:
        job = Job(journal, Text(None), _LIMITS, frozenset(), seed=0, model_name="stub")
        with closing(engine.generate(job.requests(), job.stop_found, job.tick)) as answers:
            for sequence in answers:
                job.finish(sequence)
                if journal.num_done == upto:
                    break
        return journal.num_done - journal.num_resumed
