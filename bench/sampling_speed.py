"""The sampler against one softmax over its rows, and that against reading them once."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from glinthawk import _native
from glinthawk.bench.timing import medians
from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1.sampler import sample_batch

__all__ = ["SamplingPlan", "SamplingRow", "run"]

_Write = Callable[[str], None]

_ANSWERED = 200
#: What every row of a batch asks for.
_RULES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-p": {"temperature": 0.8, "top_p": 0.9},
    "top-k": {"temperature": 0.8, "top_k": 50},
    "min-p": {"temperature": 0.8, "min_p": 0.05},
    "penalties": {"temperature": 0.8, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    "logprobs": {"temperature": 0.8, "logprobs": 5},
}


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What is measured; medians of ``rounds`` that alternate."""

    rows: int = 256
    vocab: int = 131_072
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    #: Standard deviations of normal logits: at 1 a nucleus is much of the vocabulary, at 4 little.
    spreads: tuple[float, ...] = (1.0, 4.0)
    rounds: int = 7

    @classmethod
    def quick(cls) -> "SamplingPlan":
        """A look in seconds."""
        return cls(rows=16, vocab=32_000, dtypes=("float32",), spreads=(1.0,), rounds=3)


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One batch of ``rows`` rows, all by the same rules."""

    rules: str
    dtype: str
    spread: float
    rows: int
    vocab: int
    threads: int
    ms: float
    #: One softmax over the same rows in float32, and ``ms`` as a multiple of that.
    softmax_ms: float
    ratio: float
    #: The same where the softmax has memory to write to: most of its time is asking for new pages.
    kept_softmax_ms: float
    kept_ratio: float


@torch.inference_mode()
def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = SamplingPlan.quick() if quick else SamplingPlan()
    logits = torch.randn(plan.rows, plan.vocab, generator=torch.Generator().manual_seed(0))
    isa, threads = _native.supported_isas()[-1], torch.get_num_threads()
    read, *softmaxes = medians(plan.rounds, lambda: _read(logits), *_softmaxes(logits))
    softmax, kept = softmaxes
    write(
        f"roof: {plan.rows} rows of {plan.vocab} float32 logits, {threads} threads, {isa}: "
        f"read in {1e3 * read:.1f} ms, softmax in {1e3 * softmax:.1f} ms, "
        f"{1e3 * kept:.1f} ms into memory that is there"
    )
    write("rules       dtype    spread       ms  softmax ms  ratio  kept ms  ratio")
    rows = [
        row
        for dtype in plan.dtypes
        for spread in plan.spreads
        for row in _measure(plan, (spread * logits).to(getattr(torch, dtype)), spread, write)
    ]
    roof = {
        "read_ms": round(1e3 * read, 2),
        "softmax_ms": round(1e3 * softmax, 2),
        "kept_softmax_ms": round(1e3 * kept, 2),
        "isa": isa,
    }
    write(json.dumps({"rows": [asdict(row) for row in rows], "roof": roof}))


def _read(logits: torch.Tensor) -> torch.Tensor:
    """As little as can be done with every line of memory."""
    return logits.view(torch.int32).amax()


def _softmaxes(logits: torch.Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """Into new memory, and into memory that is there already."""
    kept = torch.empty_like(logits)
    return lambda: logits.softmax(-1), lambda: torch.softmax(logits, -1, out=kept)


def _measure(
    plan: SamplingPlan, logits: torch.Tensor, spread: float, write: _Write
) -> list[SamplingRow]:
    calls = [_sampling(_batch(plan, rules), logits) for rules in _RULES.values()]
    softmax, kept, *times = medians(plan.rounds, *_softmaxes(logits.float()), *calls)
    dtype = str(logits.dtype).removeprefix("torch.")
    rows = [
        SamplingRow(
            name,
            dtype,
            spread,
            plan.rows,
            plan.vocab,
            torch.get_num_threads(),
            ms=round(1e3 * seconds, 3),
            softmax_ms=round(1e3 * softmax, 3),
            ratio=round(seconds / softmax, 3),
            kept_softmax_ms=round(1e3 * kept, 3),
            kept_ratio=round(seconds / kept, 3),
        )
        for name, seconds in zip(_RULES, times, strict=True)
    ]
    for row in rows:
        write(
            f"{row.rules:11} {dtype:8} {spread:6} {row.ms:8.1f} {row.softmax_ms:11.1f} "
            f"{row.ratio:6.2f} {row.kept_softmax_ms:8.1f} {row.kept_ratio:6.2f}"
        )
    return rows


def _sampling(batch: Batch, logits: torch.Tensor) -> Callable[[], object]:
    return lambda: sample_batch(batch, logits)


def _batch(plan: SamplingPlan, rules: dict[str, Any]) -> Batch:
    params = SamplingParams(max_tokens=None, **rules)
    answer = [7 * n % plan.vocab for n in range(_ANSWERED)]
    sequences = [
        Sequence(Request(n, (5, n), params, n, 1 << 20), output=list(answer))
        for n in range(plan.rows)
    ]
    return Batch(0, tuple(Span(one, 0, one.length - 1, 1) for one in sequences), ())
