"""How fast the simulator is: simulated tokens a second, on the core it has."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from glinthawk.core.plan import Plan
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.roofline import roofline_slices
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.workload import Workload

__all__ = ["SimulatedCase", "SimulationRow", "run"]

_Write = Callable[[str], None]
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class SimulatedCase:
    """A layout of Llama-3.1-8B, and so many turnovers of what is under way."""

    slices: int
    workers: int
    batch: int
    in_flight: int
    workload: str
    turnovers: int = 3


_CASES = (
    SimulatedCase(1, 1, 64, 2, "128:128"),
    SimulatedCase(1, 2, 256, 2, "512:256"),
    SimulatedCase(1, 0, 64, 1, "sharegpt", 8),
    SimulatedCase(2, 2, 128, 4, "sharegpt"),
    SimulatedCase(4, 3, 256, 8, "512:256", 2),
)
_QUICK = (SimulatedCase(1, 1, 16, 2, "64:32"),)


@dataclass(frozen=True, slots=True)
class SimulationRow:
    """One core's wall time."""

    slices: int
    workers: int
    batch: int
    in_flight: int
    workload: str
    tokens: int
    seconds: float
    simulated_tokens_per_s: float


def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    rows = []
    for case in _QUICK if quick else _CASES:
        rows.append(_measure(case))
        write("  ".join(f"{name} {value}" for name, value in asdict(rows[-1]).items()))
    write(json.dumps({"model": "Llama-3.1-8B", "rows": [asdict(row) for row in rows]}))


def _measure(case: SimulatedCase) -> SimulationRow:
    machines = load_catalogue()
    shape = known_shape("Llama-3.1-8B")
    plan = Plan(
        model=shape.name,
        kv_dtype="bfloat16",
        slices=case.slices,
        workers_per_slice=case.workers,
        batch_size=case.batch,
        batches_in_flight=case.in_flight,
        tier1_kv=0 if case.workers else 64 * _GIB,
        worker_kv=400 * _GIB,
    )
    tier1, tier2 = machines.machine("H100"), machines.machine("r7a-24xlarge")
    link = LinkCost(1e-3, 12.5e9)
    costs = roofline_slices(shape, case.slices, tier1, tier2, link, plan.kv_dtype)
    count = case.turnovers * case.batch * case.in_flight
    requests = list(Workload.parse(case.workload).requests(count))
    begun = time.perf_counter()
    outcome = Simulator(plan, costs, plan.pages(shape)).run(requests)
    seconds = time.perf_counter() - begun
    return SimulationRow(
        case.slices,
        case.workers,
        case.batch,
        case.in_flight,
        case.workload,
        outcome.tokens,
        round(seconds, 2),
        round(outcome.tokens / seconds),
    )
