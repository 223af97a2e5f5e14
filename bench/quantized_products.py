"""Products with weights that stay quantised against those in bfloat16, and both against the roofs.

Everything runs on one thread and is timed by what that thread computes, not by the clock: others on
the same cores make it no longer. They still take caches and memory from it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from glinthawk import _native
from glinthawk.tier1.forward.packing import PackedLinear
from glinthawk.tier1.quantized.packed_product import PackedWeight

__all__ = ["QuantizedPlan", "QuantizedRow", "run"]

_Write = Callable[[str], None]

_FP4 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@dataclass(frozen=True, slots=True)
class QuantizedPlan:
    """What is measured: the fastest of ``rounds`` that alternate."""

    #: Inputs and outputs of a weight. In bfloat16 it has to fall out of the caches.
    size: int = 4096
    rows: tuple[int, ...] = (1, 4, 16, 64, 256)
    rounds: int = 120
    #: Bytes that are read for the roof: by the clock, so in less than a scheduler's time slice.
    memory: int = 64 << 20

    @classmethod
    def quick(cls) -> "QuantizedPlan":
        """A look in seconds."""
        return cls(size=1024, rows=(1, 16), rounds=3, memory=32 << 20)


@dataclass(frozen=True, slots=True)
class QuantizedRow:
    """One product of ``rows`` rows; a kind has codes and a group."""

    kind: str
    rows: int
    ms: float
    bfloat16_ms: float
    #: How many times as fast as bfloat16.
    ratio: float
    #: What reading the packed weight or multiplying in bfloat16 takes at least, and its share.
    roof_ms: float
    share: float


@torch.inference_mode()
def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = QuantizedPlan.quick() if quick else QuantizedPlan()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        linear = PackedLinear(
            torch.nn.Linear(plan.size, plan.size, bias=False, dtype=torch.bfloat16)
        )
        gbps, tflops = _roofs(plan, linear, write)
        write("kind           rows        ms   bf16 ms  ratio   roof ms  share")
        contest = _Contest(linear, _weights(plan.size), gbps, tflops)
        rows = [row for m in plan.rows for row in contest.measure(m, plan.rounds, write)]
    finally:
        torch.set_num_threads(before)
    roof = {"gbps": gbps, "tflops": tflops, "isa": _native.supported_isas()[-1]}
    write(json.dumps({"rows": [asdict(row) for row in rows], "roof": roof}))


def _roofs(plan: QuantizedPlan, linear: PackedLinear, write: _Write) -> tuple[float, float]:
    """GB/s of memory that is read, and TFLOP/s of one large product in bfloat16."""
    reading = _native.Roof(plan.memory, 1)
    gbps = round(max(reading.measure() for _ in range(plan.rounds)) / 1e9, 1)
    x = torch.randn(512, plan.size).bfloat16()
    (seconds,) = _fastest(max(3, plan.rounds // 16), lambda: linear(x))
    tflops = round(2 * x.numel() * plan.size / seconds / 1e12, 3)
    isa = _native.supported_isas()[-1]
    write(f"roof: one thread reads {gbps} GB/s and multiplies {tflops} TFLOP/s, {isa}")
    return gbps, tflops


@dataclass(frozen=True, slots=True)
class _Contest:
    """A product in bfloat16 and those that stand against it, and the roofs over them."""

    linear: PackedLinear
    weights: dict[str, PackedWeight]
    gbps: float
    tflops: float

    def measure(self, rows: int, rounds: int, write: _Write) -> list[QuantizedRow]:
        x = torch.randn(rows, self.linear.in_features).bfloat16()
        products = [_product(weight, x) for weight in self.weights.values()]
        bfloat16, *times = _fastest(
            max(3, rounds * 16 // max(rows, 16)), lambda: self.linear(x), *products
        )
        measured = []
        for kind, seconds in zip(self.weights, times, strict=True):
            row = self._row(kind, rows, seconds, bfloat16)
            measured.append(row)
            write(
                f"{kind:14} {rows:4} {row.ms:9.3f} {row.bfloat16_ms:9.3f} {row.ratio:6.2f} "
                f"{row.roof_ms:9.3f} {row.share:6.2f}"
            )
        return measured

    def _row(self, kind: str, rows: int, seconds: float, bfloat16: float) -> QuantizedRow:
        weight = self.weights[kind]
        flops = 2 * rows * weight.in_features * weight.out_features
        roof = max(weight.packed.nbytes / self.gbps / 1e9, flops / self.tflops / 1e12)
        return QuantizedRow(
            kind,
            rows,
            ms=round(1e3 * seconds, 3),
            bfloat16_ms=round(1e3 * bfloat16, 3),
            ratio=round(bfloat16 / seconds, 2),
            roof_ms=round(1e3 * roof, 3),
            share=round(roof / seconds, 2),
        )


def _weights(size: int) -> dict[str, PackedWeight]:
    """Of each kind, by its codes and group; scales that bfloat16 has."""

    def numbers(group: int) -> torch.Tensor:
        return torch.rand(size, size // group).bfloat16().float()

    nibbles = torch.randint(0, 16, (size, size), dtype=torch.uint8)
    bytes_ = torch.randint(-127, 128, (size, size)).to(torch.int8)
    fp8 = torch.randn(size, size).to(torch.float8_e4m3fn)
    zeros = torch.randint(0, 16, (size, size // 128)).float()
    pack = PackedWeight.pack
    return {
        "int4/128": pack(nibbles, numbers(128), bits=4),
        "int4/128 zeros": pack(nibbles, numbers(128), zeros, bits=4),
        "int4/32": pack(nibbles, numbers(32), bits=4),
        "int8/row": pack(bytes_, numbers(size), bits=8),
        "int8/128": pack(bytes_, numbers(128), bits=8),
        "fp8/128": pack(fp8, numbers(128), bits=8),
        "fp4/32": pack(nibbles, numbers(32), table=_FP4, bits=4),
        "fp4/16": pack(nibbles, numbers(16), table=_FP4, bits=4),
    }


def _product(weight: PackedWeight, x: torch.Tensor) -> Callable[[], object]:
    return lambda: weight.multiply(x)


def _fastest(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Seconds of this thread for each call; one round runs each once."""
    times = [[_seconds(call) for call in calls] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    begun = time.thread_time()
    call()
    return time.thread_time() - begun
