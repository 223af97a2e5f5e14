"""Which machines answer the cheapest today, on one tier and on two: a plain enumeration."""

from collections.abc import Iterator
from math import ceil

from claims.layouts import Layout, Rig, fuse
from claims.table import Table
from glinthawk.core.shape import ModelShape
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.workload import Workload

__all__ = ["tables"]

_CATALOGUE = load_catalogue()
_MODELS = ("Llama-3.1-8B", "Qwen2.5-32B", "Llama-3.3-70B")
_WORKS = {
    "short (512 in, 256 out)": Workload.fixed(512, 256),
    "long (32,000 in, 1,000 out)": Workload.fixed(32_000, 1000),
    "answers (1,000 in, 8,000 out)": Workload.fixed(1000, 8000),
}
#: What large clouds let on demand, so that prices are of one kind.
_TIER1 = ("T4", "L4", "A10", "A100-40G", "A100-80G", "H100", "H200")
_TIER2 = ("r7i-24xlarge", "r7a-24xlarge", "r7a-4xlarge", "E96as_v5")
#: Those whose hosts join them by a fast link.
_JOINED = ("A100-40G", "A100-80G", "H100", "H200")
_SLICES = (1, 2, 3, 4, 6, 9, 12, 16)
_GROUPS = (1, 2, 4, 8)
_WORKERS = (1, 2, 3, 4, 8, 16)
#: Batches in flight, for each slice.
_IN_FLIGHT = (1, 1.25, 2, 3, 6)
#: Batches tried are this much apart.
_FINER = 1.4
#: One way between machines of a rack, with software on both ends; a guess.
_HOP_S = 5e-5


def tables() -> Iterator[Table]:
    yield _per_dollar()
    cheapest: list[tuple[object, ...]] = []
    compared: list[tuple[object, ...]] = []
    for model in _MODELS:
        for job, work in _WORKS.items():
            _survey(known_shape(model), work, f"{model}, {job}", cheapest, compared)
    header = ("model, job", "", "cheapest", "batch", "in flight", "tokens/s", "binds")
    yield Table("today-cheapest", (*header, "prompts' share", "$ a million"), cheapest)
    header = ("model, job", "one tier", "$ a million", "two tiers", "$ a million", "times cheaper")
    yield Table("today-accelerators", (*header, "CPUs pay below, of their price"), compared)


def _per_dollar() -> Table:
    """For a dollar an hour."""
    rows = []
    for name in (*_TIER1, "H20", "RTX-3090", *_TIER2):
        one = _CATALOGUE.machine(name)
        price = one.dollars_per_hour or 0
        rates = one.reached_flops / 1e12, one.reached_bandwidth / 1e9, one.memory / 2**30
        rows.append((name, price, *(rate / price for rate in rates)))
    header = ("machine", "$ an hour", "TFLOP/s for a dollar", "GB/s", "GiB")
    return Table("today-machines", header, rows)


def _survey(
    shape: ModelShape,
    work: Workload,
    title: str,
    cheapest: list[tuple[object, ...]],
    compared: list[tuple[object, ...]],
) -> None:
    """The best layouts of all, and of each accelerator: does memory beside it pay?"""
    pipelines, groups, pairs = [], [], []
    for accelerator in _TIER1:
        counts = _GROUPS if accelerator in _JOINED else (1,)
        alone = [_one_tier(shape, work, accelerator, count) for count in counts]
        several = [layout for found in alone for layout in found]
        beside = _two_tiers(shape, work, accelerator)
        pipelines += alone[0]
        groups += several
        pairs += beside
        if several and beside:
            one, two = _cheapest(several), _cheapest(beside)
            costs = one.dollars_per_million, two.dollars_per_million
            pays = max(0.0, *(_break_even(layout, costs[0]) for layout in beside))
            compared.append(
                (title, str(one), costs[0], str(two), costs[1], costs[0] / costs[1], pays)
            )
    ways = {"one tier": pipelines, "one tier, tensor parallel": groups, "two tiers": pairs}
    cheapest += [(title, way, *_describe(_cheapest(found))) for way, found in ways.items()]


def _cheapest(layouts: list[Layout]) -> Layout:
    return min(layouts, key=lambda layout: layout.dollars_per_million)


def _break_even(layout: Layout, dollars_per_million: float) -> float:
    """Share of its price at which Tier 2 makes the layout as cheap as that."""
    allowed = dollars_per_million * layout.estimate.tokens_per_s * 3600 / 1e6
    accelerators = layout.plan.slices * (layout.tier1.dollars_per_hour or 0)
    return (allowed - accelerators) / (layout.dollars_per_hour - accelerators)


def _one_tier(shape: ModelShape, work: Workload, accelerator: str, count: int) -> list[Layout]:
    """Pipelines of tensor-parallel groups that cost nothing."""
    machine = fuse(_CATALOGUE.machine(accelerator), count)
    found = []
    for slices in _SLICES:
        rig = Rig(shape, work, machine, slices=slices, latency_s=_HOP_S)
        if rig.spare > 0:
            found.append(rig.best(0, _in_flight(slices), finer=_FINER))
    return [layout for layout in found if layout.estimate.tokens_per_s]


def _two_tiers(shape: ModelShape, work: Workload, accelerator: str) -> list[Layout]:
    found = []
    for slices in _SLICES:
        for memory in _TIER2:
            machines = _CATALOGUE.machine(accelerator), _CATALOGUE.machine(memory)
            rig = Rig(shape, work, *machines, slices=slices, latency_s=_HOP_S)
            if rig.spare > 0:
                found += [
                    rig.best(workers, _in_flight(slices), finer=_FINER) for workers in _WORKERS
                ]
    return [layout for layout in found if layout.estimate.tokens_per_s]


def _in_flight(slices: int) -> list[int]:
    return sorted({ceil(slices * times) for times in _IN_FLIGHT})


def _describe(layout: Layout) -> tuple[object, ...]:
    found = layout.estimate
    return (
        str(layout),
        round(found.batch),
        layout.plan.batches_in_flight,
        found.tokens_per_s,
        found.binds,
        f"{100 * found.prefill_share:.0f} %",
        layout.dollars_per_million,
    )
