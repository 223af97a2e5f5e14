"""Whole steps of a model with constrained answers, and with free ones, in turns."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from glinthawk.bench.random_models import SHAPES
from glinthawk.core.batch import Batch
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.engine.run import Run, open_run

__all__ = ["StepsRow", "measure_steps"]

_SHAPE = "S"
_TOKENS = 16
_DEMO_VOCAB = 4096


@dataclass(frozen=True, slots=True)
class StepsRow:
    """Steps of ``rows`` answers, from the start of one to the start of the next."""

    model: str
    vocab: int
    rows: int
    #: Medians of wall time with constraints, and without; the median ratio of a turn's two.
    ms: float
    free_ms: float
    ratio: float
    #: Of processor time of all threads, which other processes change less.
    cpu_ms: float
    cpu_free_ms: float
    cpu_ratio: float


def measure_steps(
    rows: int,
    wanted: StructuredOutputsParams,
    rounds: int,
    tokenizer: Any | None = None,
) -> StepsRow:
    """Of the demo model; or, with a ``tokenizer``, of a small one of random weights for it."""
    turns: list[tuple[_Step, _Step]] = []
    with _model(tokenizer) as model, open_run(_config(model, rows)) as opened:
        starts = _Starts(opened, rows)
        for number in range(rounds + 1):
            pair = starts.step(_requests(rows, wanted)), starts.step(_requests(rows, None))
            turns += [pair] if number else []  # the first one does not count
    name, vocab = ("demo", _DEMO_VOCAB) if tokenizer is None else (_SHAPE, len(tokenizer))
    wall = _compare([(bound.wall, free.wall) for bound, free in turns])
    return StepsRow(name, vocab, rows, *wall, *_compare([(b.cpu, f.cpu) for b, f in turns]))


class _Step(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def _compare(turns: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Milliseconds of either, and the ratio."""
    bound, free = (1e3 * statistics.median(times) for times in zip(*turns, strict=True))
    ratio = statistics.median(one / other for one, other in turns)
    return round(bound, 2), round(free, 2), round(ratio, 3)


class _Starts:
    """When steps begin that decode ``rows`` rows and do nothing else."""

    def __init__(self, opened: Run, rows: int) -> None:
        self._opened, self._rows = opened, rows
        self._start, self._at = opened.tier1.start, list[_Step]()
        opened.tier1.start = self._note  # type: ignore[method-assign]

    def step(self, requests: list[Request]) -> _Step:
        """The median step of theirs."""
        self._at = []
        assert sum(1 for _ in self._opened.engine.generate(requests)) == len(requests)
        wall, cpu = zip(*self._at, strict=True)
        return _Step(*(statistics.median(b - a for a, b in pairwise(at)) for at in (wall, cpu)))

    def _note(self, batch: Batch) -> None:
        if len(batch.spans) == self._rows and not batch.prompts:
            self._at.append(_Step(time.perf_counter(), time.process_time()))
        self._start(batch)


def _requests(rows: int, wanted: StructuredOutputsParams | None) -> list[Request]:
    params = SamplingParams(max_tokens=_TOKENS, ignore_eos=True, structured_outputs=wanted)
    return [Request(row, (5, 9, 7 + row), params, row, _TOKENS) for row in range(rows)]


def _config(model: str, rows: int) -> EngineConfig:
    is_demo = model == "demo"
    return EngineConfig(
        model=model,
        load_format="auto" if is_demo else "dummy",
        tier1_kv="256MiB",
        batch_size=rows,
        batches_in_flight=1,
    )


@contextmanager
def _model(tokenizer: Any | None) -> Iterator[str]:
    if tokenizer is None:
        yield "demo"
        return
    with tempfile.TemporaryDirectory() as folder:
        shape = {**SHAPES[_SHAPE], "vocab_size": len(tokenizer)}
        (Path(folder) / "config.json").write_text(json.dumps(shape))
        tokenizer.save_pretrained(folder)
        yield folder
