"""Prompts in chunks: what attending a chunk at its home costs, and how long short sequences wait.

A chunk of a prompt attends to all tokens before it. Where that is done is a choice: at the home,
where their KV lies, or on Tier 1, which would have to keep keys and values until the prompt is
whole. The first part runs a job; the second compares both on one core.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from glinthawk.bench.memory import peak_bytes, peak_of_children
from glinthawk.bench.random_models import load_shape, write_shape
from glinthawk.bench.timing import medians
from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.engine.run import Run, open_run
from glinthawk.engine.tier import Done, TierEvent
from glinthawk.tier1.forward.prompt_attention import random_rows
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier2.cache import KVCache

__all__ = ["ChunkRow", "StepRow", "run"]

_Write = Callable[[str], None]
_SHAPE, _CHUNK = "S", 2048
#: Tokens before a chunk.
_CONTEXTS = (2048, 16_384, 63_488)
_SHORT_PROMPT, _SHORT_ANSWER = 64, 24
#: That prompts are made of.
_NUM_TOKENS = 200


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """GFLOP/s of a layer's attention of a chunk, on one core in bfloat16."""

    context: int
    at_home: float
    on_tier1: float


@dataclass(frozen=True, slots=True)
class StepRow:
    """Milliseconds of the steps of one kind."""

    kind: str
    count: int
    median_ms: float
    longest_ms: float


def run(write: _Write, *, long: int, short: int, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    steps, memory = _run_job(long, short)  # first, for its memory is to be its own
    for step in steps:
        ratio = step.longest_ms / step.median_ms
        write(f"{step.kind}: {step.count} steps, median {step.median_ms} ms, longest {ratio:.2f}x")
    write("  ".join(f"{name} {value >> 20} MiB" for name, value in memory.items()))
    chunks = [_measure_chunk(context) for context in (_CONTEXTS[:1] if quick else _CONTEXTS)]
    for chunk in chunks:
        write("  ".join(f"{name} {value}" for name, value in asdict(chunk).items()))
    rows = {"chunks": [asdict(row) for row in chunks], "steps": [asdict(row) for row in steps]}
    write(json.dumps({"long": long, "short": short, **rows, "memory": memory}))


@torch.inference_mode()
def _measure_chunk(context: int) -> ChunkRow:
    torch.set_num_threads(1)
    layer = load_shape(_SHAPE).spec.layers[0]
    length = context + _CHUNK
    home = LocalHome(0, KVCache((layer,), 1 << 30, "bfloat16", torch.device("cpu"), threads=1))
    params = SamplingParams(max_tokens=1)
    sequence = Sequence(Request(0, (5,) * length, params, 0, 1))
    q, k, v = random_rows(layer, length, torch.bfloat16)
    home.begin(0, [], [Span(sequence, 0, 0, context)])
    home.store(0, 0, k[:context], v[:context])
    home.finish(0)

    def at_home() -> None:
        home.begin(1, [Span(sequence, 0, context, _CHUNK)], [])
        home.attend(1, 0, q[context:], k[context:], v[context:])
        home.finish(1)

    mask = torch.ones(_CHUNK, length, dtype=torch.bool).tril(context)
    rows, keys, values = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q[context:], k, v))

    def on_tier1() -> None:
        scaled_dot_product_attention(rows, keys, values, attn_mask=mask, enable_gqa=True)

    work = 2 * _CHUNK * (context + _CHUNK / 2) * layer.num_heads * 2 * layer.head_dim
    speeds = [work / seconds / 1e9 for seconds in medians(3, at_home, on_tier1)]
    return ChunkRow(context, *(round(speed, 1) for speed in speeds))


def _requests(long: int, short: int) -> Iterator[Request]:
    """A long prompt behind the first tenth of the short ones."""
    for number in range(short + 1):
        length = long if number == short // 10 else _SHORT_PROMPT
        prompt = tuple((7 * number + 3 * place) % _NUM_TOKENS + 3 for place in range(length))
        answer = _SHORT_ANSWER + number % _SHORT_ANSWER
        params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True)
        yield Request(number, prompt, params, 0, answer)


def _run_job(long: int, short: int) -> tuple[list[StepRow], dict[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            model=str(write_shape(Path(folder), _SHAPE)),
            load_format="dummy",
            tier2=("local:1",),
            worker_kv="1GiB",
            batch_size=64,
            batches_in_flight=1,
            batch_tokens=_CHUNK,
        )
        with open_run(config) as opened:
            steps = _StepTimes(opened)
            answered = sum(1 for _ in opened.engine.generate(_requests(long, short)))
            assert answered == short + 1
            memory = {
                "tier1_peak": peak_bytes(),
                "worker_peak": peak_of_children(),
                "kv_peak": opened.stats().kv_bytes_peak,
            }
    return steps.rows(), memory


class _StepTimes:
    """Seconds of each step of a run, by kind."""

    def __init__(self, opened: Run) -> None:
        self._start, self._poll = opened.tier1.start, opened.tier1.poll
        self._begun = 0.0
        self._seconds: dict[str, list[float]] = {}
        opened.tier1.start = self.start  # type: ignore[method-assign]
        opened.tier1.poll = self.poll  # type: ignore[method-assign]

    def start(self, batch: Batch) -> None:
        self._begun = time.perf_counter()
        self._start(batch)

    def poll(self, timeout_s: float | None = None) -> list[TierEvent]:
        events = self._poll(timeout_s)
        for event in events:
            if isinstance(event, Done):
                took = time.perf_counter() - self._begun
                self._seconds.setdefault(_kind(event.batch), []).append(took)
        return events

    def rows(self) -> list[StepRow]:
        return [
            StepRow(
                kind,
                len(seconds),
                round(1000 * statistics.median(seconds), 1),
                round(1000 * max(seconds), 1),
            )
            for kind, seconds in self._seconds.items()
        ]


def _kind(batch: Batch) -> str:
    if any(_is_chunk(span) for span in batch.spans):
        return "with a chunk"
    return "with prompts" if batch.prompts else "decode rows alone"


def _is_chunk(span: Span) -> bool:
    return not span.num_sampled or not (span.is_first or span.is_decode)
