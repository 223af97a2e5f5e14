"""Glinthawk (arXiv 2501.11779): Llama-2-70B on T4s, KV and attention on 16-core CPU machines.

Counted as its prototype counts: prompts go token by token like answers, and every token counts. So
a conversation of 1,365 tokens is an answer of 1,365, with 683 keys to attend to on average.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from claims.layouts import Layout, Rig
from claims.table import Table
from glinthawk.planner.catalogue import Machine, load_catalogue
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.workload import Workload

__all__ = ["tables"]

_CATALOGUE = load_catalogue()
_SHAPE = known_shape("Llama-2-70B", "float16")
_TALK = Workload.fixed(1, 1365)
_HOP_S = 1e-3
#: Price of a CPU machine, of a T4 machine's, that the paper's ratios imply.
_SHARE = _CATALOGUE.prices["glinthawk-implied"].of["rome-16"]

#: T4s, CPU machines for each, batch, batches in flight, and what a discrete-event simulation of the
#: prototype's own design gave.
_TWO_TIERS = (
    (9, 3, 255, 27, 1609),
    (10, 3, 243, 32, 1729),
    (12, 3, 249, 35, 2091),
    (14, 3, 249, 41, 2420),
    (16, 1, 112, 37, 1114),
    (16, 2, 116, 71, 2220),
    (16, 3, 246, 50, 2772),
    (20, 3, 243, 64, 3532),
    (9, 6, 396, 29, 1573),
)
_ONE_TIER = (
    (10, 4, 17, 63),
    (12, 8, 13, 149),
    (14, 11, 23, 237),
    (16, 14, 29, 341),
    (20, 18, 36, 537),
    (27, 23, 32, 975),
    (40, 55, 39, 2900),
    (80, 45, 80, 4302),
)
_SWEEP = (
    (1, 55, 36, 616),
    (2, 120, 36, 1208),
    (3, 255, 27, 1609),
    (4, 248, 36, 1607),
    (5, 385, 27, 1620),
    (6, 474, 27, 1622),
    (8, 632, 27, 1623),
    (10, 650, 36, 1623),
)
#: Added milliseconds, CPU machines, batch, in flight: as the prototype was planned anew.
_REPLANNED = {
    20: ((27, 126, 54), (18, 118, 36)),
    50: ((27, 117, 63),),
    100: ((27, 66, 108), (45, 130, 90)),
    150: ((27, 54, 126), (63, 126, 126)),
    200: ((27, 36, 189), (81, 126, 162)),
}
_FIXED = {0: 1609, 5: 1248, 10: 1237, 20: 1172, 50: 817, 100: 545, 150: 426, 200: 335, 500: 156}
#: Length, CPU machines, two tiers' batch and in flight, one tier's batch as run and as fits on 16.
_LONG = (
    (2048, 45, 130, 27, 10, 11),
    (4096, 90, 130, 27, 5, 5),
    (8192, 144, 64, 45, 2, 3),
    (16384, 144, 32, 45, 1, 2),
)


def tables() -> Iterator[Table]:
    yield _layouts()
    yield _single()
    yield _headline()
    yield _prices()
    yield _saturation()
    yield _latency()
    yield _long()
    yield _today()


def _t4(tflops: float = 25.0) -> Machine:
    machine = _CATALOGUE.machine("T4")
    return replace(machine, flops_share=tflops * 1e12 / machine.flops)


@cache
def _rig(
    slices: int, tflops: float = 25.0, added_ms: float = 0.0, length: int = 1366, kv: str = ""
) -> Rig:
    return Rig(
        _SHAPE,
        Workload.fixed(1, length - 1),
        _t4(tflops),
        _CATALOGUE.machine("rome-16"),
        slices=slices,
        latency_s=_HOP_S + added_ms / 2e3,
        kv_dtype=kv or "float32",
    )


def _single_rig(slices: int, length: int = 1366) -> Rig:
    return _rig(slices, length=length, kv="float16")


def _two(slices: int, each: int, batch: int, in_flight: int, tflops: float = 25.0) -> Layout:
    return _rig(slices, tflops).rate(batch, in_flight, each, tier1_kv=0)


def _speed(layout: Layout) -> float:
    return layout.estimate.tokens_per_s


def _layouts() -> Table:
    rows = []
    for slices, each, batch, in_flight, simulated in _TWO_TIERS:
        at = [_two(slices, each, batch, in_flight, tflops) for tflops in (20, 25, 30)]
        rows.append(
            (
                f"{slices} + {slices * each}",
                batch,
                in_flight,
                *tuple(_speed(one) for one in at),
                at[1].estimate.binds,
                float(simulated),
            )
        )
    header = ("T4 + CPU", "batch", "in flight", "at 20 TFLOP/s", "at 25", "at 30", "binds at 25")
    return Table("glinthawk-layouts", (*header, "simulated at 25"), rows)


def _single() -> Table:
    rows = []
    for slices, batch, in_flight, simulated in _ONE_TIER:
        ran = _single_rig(slices).rate(batch, in_flight)
        best = _single_rig(slices).best()
        found = best.estimate
        rows.append(
            (
                slices,
                batch,
                in_flight,
                _speed(ran),
                float(simulated),
                round(found.batch),
                best.plan.batches_in_flight,
                _speed(best),
                found.binds,
            )
        )
    header = ("T4", "batch", "in flight", "tokens/s", "simulated")
    return Table(
        "glinthawk-single",
        (*header, "best batch", "in flight", "tokens/s", "binds"),
        rows,
    )


_BASELINES = ((16, 14, 29), (20, 18, 36), (27, 23, 32), (40, 55, 39), (80, 45, 80))


def _headline() -> Table:
    rows = []
    for slices, each, batch, in_flight, _ in _TWO_TIERS[:8]:
        speed = _speed(_two(slices, each, batch, in_flight))
        ratios = [speed / _speed(_single_rig(one).rate(b, k)) for one, b, k in _BASELINES]
        rows.append((f"{slices} + {slices * each}", *ratios))
    return Table(
        "glinthawk-headline",
        ("T4 + CPU, times as fast as", *(f"{one} T4" for one, _, _ in _BASELINES)),
        rows,
    )


def _prices() -> Table:
    sets = [_CATALOGUE.prices[f"glinthawk-{one}"].of for one in ("early", "equipment", "implied")]
    shares = [one["rome-16"] / one["T4"] for one in sets]
    ran, anew = (_speed(one) for one in (_single_rig(16).rate(14, 29), _single_rig(16).best()))
    rows = []
    for slices, each, batch, in_flight, _ in _TWO_TIERS[:8]:
        speed = _speed(_two(slices, each, batch, in_flight))
        cheaper = [speed / (slices * (1 + each * share)) * 16 for share in shares]
        rows.append(
            (
                f"{slices} + {slices * each}",
                speed / ran,
                *(one / ran for one in cheaper),
                speed / anew,
                *(one / anew for one in cheaper),
            )
        )
    header = ("16 T4 as run: times as fast", *(f"cheaper at {share:.2f}" for share in shares))
    again = ("16 T4 planned anew: times as fast", *header[1:])
    return Table("glinthawk-prices", ("T4 + CPU", *header, *again), rows)


def _saturation() -> Table:
    rows = []
    for each, batch, in_flight, simulated in _SWEEP:
        found = _two(9, each, batch, in_flight)
        best = _rig(9).best(each, range(18, 64, 3), tier1_kv=0)
        rows.append(
            (
                each,
                batch,
                in_flight,
                _speed(found),
                found.estimate.binds,
                float(simulated),
                _speed(best),
                found.estimate.worker_busy,
            )
        )
    return Table(
        "glinthawk-saturation",
        (
            "CPU for each T4",
            "batch",
            "in flight",
            "tokens/s",
            "binds",
            "simulated",
            "planned anew",
            "workers busy",
        ),
        rows,
    )


def _latency() -> Table:
    rows = []
    for added, simulated in _FIXED.items():
        fixed = _rig(9, added_ms=added).rate(255, 27, 3, tier1_kv=0)
        theirs = ", ".join(
            f"{_speed(_rig(9, added_ms=added).rate(b, k, cpus // 9, tier1_kv=0)):,.0f} ({cpus} CPU)"
            for cpus, b, k in _REPLANNED.get(added, ())
        )
        ours = [
            _speed(_rig(9, added_ms=added).best(each, _counts(), tier1_kv=0)) for each in (3, 9)
        ]
        half = Rig(
            _SHAPE,
            _TALK,
            _t4(),
            _CATALOGUE.machine("rome-16"),
            slices=9,
            latency_s=_HOP_S + added / 2e3,
        ).best(3, _counts(), tier1_kv=0)
        rows.append((added, _speed(fixed), float(simulated), theirs or "-", *ours, _speed(half)))
    return Table(
        "glinthawk-latency",
        (
            "added ms",
            "255 x 27",
            "simulated",
            "as planned there",
            "27 CPU, best",
            "81 CPU, best",
            "27 CPU, float16 KV, best",
        ),
        rows,
    )


def _counts() -> list[int]:
    return [18, 27, 36, 45, 54, 63, 81, 108, 135, 162, 198, 243, 297, 360, 450, 540]


def _long() -> Table:
    rows = []
    for length, cpus, batch, in_flight, ran, fits in _LONG:
        two = _rig(9, length=length).rate(batch, in_flight, cpus // 9, tier1_kv=0)
        one = [_single_rig(16, length).rate(size, 16) for size in (ran, fits)]
        best = _single_rig(16, length).best()
        anew = _rig(9, length=length, kv="float16").best(cpus // 9)
        cost = (9 + cpus * _SHARE) / 16
        rows.append(
            (
                length,
                f"9 + {cpus}",
                _speed(two),
                two.estimate.binds,
                *(_speed(single) for single in (*one, best)),
                *(_speed(two) / _speed(single) for single in (*one, best)),
                _speed(two) / _speed(one[0]) / cost,
                _speed(anew),
                _speed(anew) / _speed(best),
                _speed(anew) / _speed(best) / cost,
            )
        )
    header = ("tokens", "T4 + CPU", "tokens/s", "binds", "16 T4 as run", "as fits", "paged")
    ratios = ("times as run", "as fits", "paged", "cheaper than as run")
    anew = ("both planned anew", "times", "cheaper")
    return Table("glinthawk-long", (*header, *ratios, *anew), rows)


def _today() -> Table:
    """Our counting: a prompt is one pass, answers alone count, KV in 16 bits, the T4s' own too."""
    work = Workload.sharegpt()
    rome = _CATALOGUE.machine("rome-16")
    kernels = replace(rome, bandwidth_share=0.75)
    rows = []
    base = None
    cases: list[tuple[int, Machine | None, int]]
    cases = [(slices, None, 0) for slices in (16, 27, 40)]
    cases += [(slices, machine, 3) for machine in (rome, kernels) for slices in (9, 16, 27)]
    for slices, machine, each in cases:
        rig = Rig(_SHAPE, work, _t4(), machine, slices=slices, latency_s=_HOP_S)
        best = rig.best(each)
        base = base or best
        ratio = _speed(best) / _speed(base)
        reads = f"{machine.reached_bandwidth / 1e9:.0f}" if machine else "-"
        cost = slices * (1 + each * _SHARE)
        rows.append(
            (
                f"{slices} + {slices * each}",
                reads,
                round(best.estimate.batch),
                best.plan.batches_in_flight,
                _speed(best),
                best.estimate.binds,
                ratio,
                ratio * 16 / cost,
            )
        )
    header = ("T4 + CPU", "GB/s of a CPU", "batch", "in flight", "tokens/s", "binds")
    return Table("glinthawk-ours", (*header, "times 16 T4", "cheaper at 0.69"), rows)
