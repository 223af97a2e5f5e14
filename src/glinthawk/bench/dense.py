"""Tier 1's dense step against its linear layers alone, and those against the machine's products."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from glinthawk.bench.random_models import load_shape
from glinthawk.bench.timing import medians
from glinthawk.tier1.forward.cut import Passes
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.forward.packing import PackedLinear
from glinthawk.tier1.model.agreement import agree
from glinthawk.tier1.model.loader import LoadedModel

__all__ = ["DensePlan", "DenseRow", "run"]

_Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DensePlan:
    """What is measured; medians of ``rounds`` that alternate."""

    models: tuple[str, ...] = ("M", "L")
    tokens: tuple[int, ...] = (64, 100, 256, 512)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 5

    @classmethod
    def quick(cls) -> "DensePlan":
        """A look in seconds."""
        return cls(models=("M",), tokens=(64,), threads=(1,), rounds=3)


@dataclass(frozen=True, slots=True)
class DenseRow:
    """One step of ``tokens`` rows through all layers, logits of every row, attention left out."""

    model: str
    tokens: int
    threads: int
    ms: float
    linears_ms: float
    ratio: float
    tflops: float
    #: The same step with the model as transformers made it.
    plain_ms: float
    #: The same step in passes of fixed sizes (--batch-invariant), and its share more than ``ms``.
    invariant_ms: float
    invariant_cost: float


@torch.inference_mode()
def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = DensePlan.quick() if quick else DensePlan()
    before = torch.get_num_threads()
    try:
        roofs = {str(threads): _roof(plan, threads, write) for threads in plan.threads}
        write("model tokens threads   step ms  linears ms  ratio  plain ms  TFLOP/s  invariant ms")
        rows = [row for name in plan.models for row in _measure(plan, name, write)]
    finally:
        torch.set_num_threads(before)
    write(json.dumps({"rows": [asdict(row) for row in rows], "roof_tflops": roofs}))


def _roof(plan: DensePlan, threads: int, write: _Write) -> float:
    """TFLOP/s of one large packed product in bfloat16."""
    torch.set_num_threads(threads)
    linear = PackedLinear(torch.nn.Linear(4096, 4096, bias=False, dtype=torch.bfloat16))
    x = torch.randn(512, 4096).bfloat16()
    (seconds,) = medians(plan.rounds, lambda: linear(x))
    tflops = 2 * x.numel() * 4096 / seconds / 1e12
    write(f"product roof, {threads} threads: {tflops:.3f} TFLOP/s")
    return round(tflops, 3)


def _measure(plan: DensePlan, name: str, write: _Write) -> list[DenseRow]:
    packed, plain = load_shape(name), load_shape(name, dense="plain")
    fixed = load_shape(name, batch_invariant=True)
    passes = {threads: _agree(fixed, threads) for threads in plan.threads}
    rows = []
    for tokens in plan.tokens:
        for threads in plan.threads:
            torch.set_num_threads(threads)
            linears = _Linears(packed, tokens)
            step, alone, unpacked, invariant = medians(
                plan.rounds,
                _step(packed, tokens),
                linears,
                _step(plain, tokens),
                _step(fixed, tokens, passes[threads]),
            )
            row = DenseRow(
                name,
                tokens,
                threads,
                ms=round(1e3 * step, 2),
                linears_ms=round(1e3 * alone, 2),
                ratio=round(step / alone, 3),
                tflops=round(linears.flops / step / 1e12, 3),
                plain_ms=round(1e3 * unpacked, 2),
                invariant_ms=round(1e3 * invariant, 2),
                invariant_cost=round(invariant / step - 1, 3),
            )
            rows.append(row)
            write(
                f"{name:5} {tokens:6} {threads:7} {row.ms:9.2f} {row.linears_ms:11.2f} "
                f"{row.ratio:6.2f} {row.plain_ms:9.2f} {row.tflops:8.3f} {row.invariant_ms:13.2f} "
                f"({row.invariant_cost:+.1%})"
            )
    return rows


def _agree(fixed: LoadedModel, threads: int) -> Passes:
    torch.set_num_threads(threads)
    return agree(fixed).passes


def _step(loaded: LoadedModel, tokens: int, passes: Passes | None = None) -> DensePass:
    return DensePass(loaded.model, loaded.spec.layers, tokens, passes)


class _Linears:
    """The model's packed linear layers, one after the other, each on an input of its own size."""

    def __init__(self, loaded: LoadedModel, tokens: int) -> None:
        modules = loaded.model.modules()
        self._linears = [module for module in modules if isinstance(module, PackedLinear)]
        sizes = {linear.in_features for linear in self._linears}
        self._inputs = {size: torch.randn(1, tokens, size).bfloat16() for size in sizes}
        self.flops = 2 * tokens * sum(x.in_features * x.out_features for x in self._linears)

    def __call__(self) -> None:
        for linear in self._linears:
            linear(self._inputs[linear.in_features])
