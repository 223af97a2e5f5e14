"""Two tiers against one, decoding in steady state: tokens a second where KV memory is scarce.

Tier 1 has one core and little KV memory, as an accelerator has whose memory is full of weights; the
worker has another core and all the KV memory it needs. The single tier is measured twice: on the
same core, and with both cores.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from glinthawk import _native
from glinthawk.bench import latency
from glinthawk.bench.decoding import Decoding, dense_seconds
from glinthawk.bench.layouts import START_S, kv_bytes, on_cores, open_home, worker_on
from glinthawk.bench.memory import peak_bytes, peak_of_children
from glinthawk.bench.random_models import load_shape
from glinthawk.core.units import format_size
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.address import Address

__all__ = ["TiersCase", "TiersPlan", "TiersRow", "run"]

_Write = Callable[[str], None]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class TiersCase:
    """A context, what the capped Tier 1 holds of it, and the two-tier run beside it."""

    context: int
    capped: int
    batch: int
    batches: int = 2


#: At the first case's context, in batches that a machine with little memory has room for.
_LINKS = latency.LatencyPlan("L", 256, 64, (0, 10, 50), rounds=2, seconds=10.0)


@dataclass(frozen=True, slots=True)
class TiersPlan:
    """What is measured: ``seconds`` of steady state at least, and ``steps`` steps of each batch."""

    model: str = "L"
    cases: tuple[TiersCase, ...] = (TiersCase(256, 8, 256), TiersCase(8192, 2, 26))
    kv_dtypes: tuple[str, ...] = ("bfloat16", "int8")
    links: latency.LatencyPlan = _LINKS
    seconds: float = 10.0
    steps: int = 3
    #: Whether tokens are drawn with top-p; else the likeliest are taken.
    sampled: bool = False

    @classmethod
    def quick(cls) -> "TiersPlan":
        """A look in a minute, with a small model."""
        links = latency.LatencyPlan("M", 256, 64, (0, 10), rounds=1)
        return cls("M", (TiersCase(256, 8, 64),), ("bfloat16",), links, seconds=2.0)


@dataclass(frozen=True, slots=True)
class TiersRow:
    """Generated tokens a second."""

    context: int
    kv_dtype: str
    single_same_core: float
    single_both_cores: float
    two_tier: float
    ratio_same_core: float
    ratio_both_cores: float
    tier1_busy: float
    tier2_busy: float
    #: Bytes on the wire over what q, k, v and o need.
    wire_overhead: float
    #: Tokens a second if nothing but the dense step of the two-tier batch took time.
    dense_roof: float
    #: The worker's KV, and the most memory that it and this process have had.
    kv_bytes: int
    tier1_peak_bytes: int
    tier2_peak_bytes: int


def run(write: _Write, *, quick: bool = False, sampled: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = replace(TiersPlan.quick() if quick else TiersPlan(), sampled=sampled)
    cores = sorted(os.sched_getaffinity(0))[:2]
    torch.manual_seed(0)
    torch.set_num_threads(len(cores))
    loaded = load_shape(plan.model)
    reads = _native.Roof(_GIB, 1).measure()
    write(f"read roof of the worker's core: {reads / 1e9:.1f} GB/s")
    rows = []
    for case in plan.cases:
        for kv_dtype in plan.kv_dtypes:
            rows.append(_measure(plan, loaded, case, kv_dtype, cores, reads, write))
    links = latency.measure_links(plan.links, loaded, cores, write)
    summary = {"model": plan.model, "sampled": sampled, "rows": [asdict(row) for row in rows]}
    write(json.dumps({**summary, "latency": [asdict(link) for link in links]}))


def _measure(
    plan: TiersPlan,
    loaded: LoadedModel,
    case: TiersCase,
    kv_dtype: str,
    cores: list[int],
    reads: float,
    write: _Write,
) -> TiersRow:
    with on_cores(cores[:1]):
        dense = case.batch / dense_seconds(loaded, case.batch)
        attention = reads / (case.context * loaded.spec.kv_bytes_per_token(kv_dtype))
        write(
            f"context {case.context}, KV in {kv_dtype}; roofs in tokens/s: dense step {dense:.1f}, "
            f"the worker's reads {attention:.1f}"
        )
        same = _single(plan, loaded, case, kv_dtype)
    with on_cores(cores):
        both = _single(plan, loaded, case, kv_dtype)
    num_bytes = kv_bytes(loaded.spec.layers, case.batch * case.batches, case.context, kv_dtype)
    with worker_on(cores[1:] or cores, num_bytes) as address, on_cores(cores[:1]):
        two = _run_worker(plan, loaded, case, kv_dtype, address)
    row = TiersRow(
        case.context,
        kv_dtype,
        round(same, 1),
        round(both, 1),
        round(two.speed, 1),
        ratio_same_core=round(two.speed / same, 2),
        ratio_both_cores=round(two.speed / both, 2),
        tier1_busy=round(two.tier1_busy, 3),
        tier2_busy=round(two.tier2_busy, 3),
        wire_overhead=round(two.wire_overhead, 3),
        dense_roof=round(dense, 1),
        kv_bytes=num_bytes,
        tier1_peak_bytes=peak_bytes(),
        tier2_peak_bytes=two.tier2_peak_bytes,
    )
    _describe(case, row, write)
    return row


def _describe(case: TiersCase, row: TiersRow, write: _Write) -> None:
    write(
        f"  one tier, {case.capped} sequences: {row.single_same_core:.1f} (same core), "
        f"{row.single_both_cores:.1f} (both cores); "
        f"two tiers, {case.batches} x {case.batch}: {row.two_tier:.1f}, "
        f"{row.ratio_same_core:.2f} and {row.ratio_both_cores:.2f} times as fast; "
        f"busy {row.tier1_busy:.0%}, {row.tier2_busy:.0%}; "
        f"wire {row.wire_overhead:.3f} of the minimum"
    )
    write(
        f"  most memory so far: {format_size(row.tier1_peak_bytes)} here, "
        f"{format_size(row.tier2_peak_bytes)} at the worker, "
        f"whose KV is {format_size(row.kv_bytes)}"
    )


def _single(plan: TiersPlan, loaded: LoadedModel, case: TiersCase, kv_dtype: str) -> float:
    """Tokens a second of the capped single tier."""
    threads = torch.get_num_threads()
    num_bytes = kv_bytes(loaded.spec.layers, case.capped, case.context, kv_dtype)
    cache = KVCache(loaded.spec.layers, num_bytes, kv_dtype, threads=threads, on_torch_threads=True)
    decoding = Decoding(loaded, LocalHome(0, cache), case.context, [case.capped], plan.sampled)
    return decoding.speed(plan.seconds, plan.steps)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of the two-tier run: tokens a second, and what ``TiersRow`` says beside."""

    speed: float
    tier1_busy: float
    tier2_busy: float
    wire_overhead: float
    tier2_peak_bytes: int


def _run_worker(
    plan: TiersPlan, loaded: LoadedModel, case: TiersCase, kv_dtype: str, address: Address
) -> _Measured:
    with open_home(address, loaded, kv_dtype) as home:
        decoding = Decoding(loaded, home, case.context, [case.batch] * case.batches, plan.sampled)
        busy_before = home.link.ask(START_S).busy_s
        speed = decoding.speed(plan.seconds, plan.steps)
        busy = home.link.ask(START_S).busy_s - busy_before
        counted = home.link.traffic
        traffic = counted.decode_bytes_out + counted.decode_bytes_back
        minimum = decoding.total_tokens * loaded.spec.wire_bytes_per_token
        return _Measured(
            speed,
            decoding.tier1_busy,
            busy / decoding.total_s,
            traffic / minimum,
            peak_of_children(),
        )
