"""Lamina (arXiv 2405.01814): attention on GPUs with much memory for little money.

Decoding only, as there: a prompt is one token, and answers are so long that the mean context is
that of the trace. Tensor parallelism costs nothing here, on either side; devices that share heads
are one device with the sum of their memory and bandwidth.
"""

from collections.abc import Iterator
from dataclasses import replace

from claims.formulas import least_link_bytes_per_s
from claims.layouts import Layout, Rig, fuse
from claims.table import Table
from glinthawk.planner.catalogue import Machine, load_catalogue
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.roofline import Roofline
from glinthawk.planner.workload import Workload

__all__ = ["tables"]

_CATALOGUE = load_catalogue()
#: Half of the round trip that it measures between GPUs.
_HOP_S = 16.5e-6
#: Mean prompt and answer of its traces.
_TRACES = {
    "Azure-Conv": (1154.7, 211.1),
    "Azure-Code": (2047.8, 27.9),
    "Kimi-Conv": (12035.1, 342.6),
    "Kimi-TA": (8560.0, 182.1),
}
#: Compute and memory devices, and the devices of the baseline that costs as much.
_CASES = (("LLaMA-33B", 1, 2, 2), ("LLaMA-65B", 2, 4, 4), ("Llama-3-70B", 2, 4, 4))
#: Flagships that hold the model, and numbers of cheap devices that divide its KV heads.
_PAIRS = (
    ("Llama-2-7B", 1, (1, 2, 4, 8, 16, 32)),
    ("LLaMA-33B", 1, (1, 2, 4, 13, 26)),
    ("Llama-2-70B", 2, (1, 2, 4, 8)),
)


def tables() -> Iterator[Table]:
    yield _equal_cost()
    yield _first_version()
    yield _links()


def _decoding(context: float) -> Workload:
    return Workload.fixed(1, round(2 * context))


def _two(name: str, context: float, tier1: Machine, tier2: Machine) -> Layout:
    rig = Rig(known_shape(name, "float16"), _decoding(context), tier1, tier2, latency_s=_HOP_S)
    return rig.best(1, (1, 2, 3, 4), tier1_kv=0)


def _one(name: str, context: float, machine: Machine) -> Layout:
    return Rig(known_shape(name, "float16"), _decoding(context), machine).best(0, (1,))


def _equal_cost() -> Table:
    h100, h20 = (_CATALOGUE.priced(name, "lamina") for name in ("H100", "H20"))
    rows = []
    for name, compute, memory, alone in _CASES:
        for trace, (given, output) in _TRACES.items():
            context = given + output / 2
            two = _two(name, context, fuse(h100, compute), fuse(h20, memory))
            one = _one(name, context, fuse(h100, alone))
            rows.append(
                (
                    f"{name}, {trace}",
                    round(two.estimate.living),
                    two.estimate.tokens_per_s,
                    two.estimate.binds,
                    round(one.estimate.living),
                    one.estimate.tokens_per_s,
                    one.estimate.binds,
                    _gain(two, one),
                    _gain(two, _one(name, context, _slower(fuse(h100, alone)))),
                    one.dollars_per_million / two.dollars_per_million,
                )
            )
    header = ("model, trace", "sequences", "tokens/s", "binds", "alone: sequences", "tokens/s")
    gains = ("gain", "gain if alone reaches 0.7 of that", "times per dollar")
    return Table("lamina-equal-cost", (*header, "binds", *gains), rows)


def _slower(machine: Machine) -> Machine:
    """What the exchange between tensor-parallel devices may leave."""
    bandwidth, flops = 0.7 * machine.bandwidth_share, 0.7 * machine.flops_share
    return replace(machine, bandwidth_share=bandwidth, flops_share=flops)


def _gain(two: Layout, one: Layout) -> str:
    return f"{100 * (two.estimate.tokens_per_s / one.estimate.tokens_per_s - 1):+.0f} %"


def _first_version() -> Table:
    """The first version's pairs of GPUs, at the catalogue's prices."""
    rows = []
    cheap = _CATALOGUE.machine("RTX-3090")
    for name, count, several in _PAIRS:
        for flagship in ("A100-80G", "H100"):
            tier1 = _CATALOGUE.machine(flagship)
            for context in (1024, 8192):
                one = _cheapest(_one(name, context, fuse(tier1, alone)) for alone in (1, 2, 4, 8))
                two = _cheapest(
                    _two(name, context, fuse(tier1, count), fuse(cheap, workers))
                    for workers in several
                )
                assert two.tier2 is not None
                rows.append(
                    (
                        f"{name}, {context}",
                        one.tier1.name,
                        one.dollars_per_million,
                        f"{two.tier1.name} + {two.tier2.name}",
                        two.dollars_per_million,
                        one.dollars_per_million / two.dollars_per_million,
                    )
                )
    header = ("model, context", "alone", "$ a million", "with RTX 3090", "$ a million")
    return Table("lamina-first", (*header, "times per dollar"), rows)


def _cheapest(layouts: Iterator[Layout]) -> Layout:
    return min(layouts, key=lambda layout: layout.dollars_per_million)


def _links() -> Table:
    """Of one H100 with one H20, as if the model fitted, and of each of two with four H20."""
    shape = known_shape("Llama-3-70B", "float16")
    h100, h20 = _CATALOGUE.machine("H100"), _CATALOGUE.machine("H20")
    contexts = (1024, 4096, 8192)
    rows = []
    for batch in (10, 50, 100, 200, 300):
        row: list[object] = [batch]
        for near, far in ((1, 1), (2, 4)):
            tiers = fuse(h100, near), fuse(h20, far)
            rig = Rig(shape, _decoding(1), *tiers, latency_s=0.0)
            row += [_least_link(rig.costs[0], batch, one) / near / 1e9 for one in contexts]
        rows.append(row)
    header = [f"{pair}: {one} tokens" for pair in ("1 + 1", "2 + 4") for one in contexts]
    return Table("lamina-link", ("batch", *header), rows)


def _least_link(costs: Roofline, batch: int, context: int) -> float:
    dense_s, attention_s = costs.dense_s(batch, batch), costs.far_s(batch, batch * context)
    return least_link_bytes_per_s(costs.shape, batch, dense_s, attention_s, 0.2)
