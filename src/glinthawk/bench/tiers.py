"""Two tiers against one, decoding in steady state: tokens a second where KV memory is scarce.

Tier 1 has one core and little KV memory, as an accelerator has whose memory is full of weights; the
worker has another core and all the KV memory it needs. The single tier is measured twice: on the
same core, and with both cores.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from glinthawk import _native
from glinthawk.bench.layouts import START_S, kv_bytes, on_cores, open_home, worker_on
from glinthawk.bench.models import load_shape
from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.runtime.tuning import batches_to_hide
from glinthawk.tier1.dense import DensePass
from glinthawk.tier1.homes import Home, LocalHome, RemoteHome
from glinthawk.tier1.loader import LoadedModel
from glinthawk.tier1.node import Node
from glinthawk.tier1.sampler import sample_batch
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.address import Address

__all__ = ["Case", "Link", "Plan", "Row", "run"]

_Write = Callable[[str], None]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Case:
    """A context, what the capped Tier 1 holds of it, and the two-tier run beside it."""

    context: int
    capped: int
    batch: int
    batches: int = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: ``seconds`` of steady state at least, and ``steps`` steps of each batch."""

    model: str = "L"
    cases: tuple[Case, ...] = (Case(256, 8, 256), Case(8192, 2, 26))
    kv_dtypes: tuple[str, ...] = ("bfloat16", "int8")
    #: Milliseconds each way, at the first case's context with batches of ``latency_batch``.
    latencies: tuple[int, ...] = (0, 10, 50)
    latency_batch: int = 64
    seconds: float = 10.0
    steps: int = 3

    @classmethod
    def quick(cls) -> "Plan":
        """A look in a minute, with a small model."""
        return cls("M", (Case(256, 8, 64),), ("bfloat16",), latencies=(0, 10), seconds=2.0)


@dataclass(frozen=True, slots=True)
class Row:
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


@dataclass(frozen=True, slots=True)
class Link:
    """Generated tokens a second over a link of ``ms`` each way."""

    ms: int
    batches: int
    tokens_per_s: float
    #: Of the speed without latency.
    share: float


def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = Plan.quick() if quick else Plan()
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
    links = _latencies(plan, loaded, cores, write)
    summary = {"model": plan.model, "rows": [asdict(row) for row in rows]}
    write(json.dumps({**summary, "latency": [asdict(link) for link in links]}))


def _measure(
    plan: Plan,
    loaded: LoadedModel,
    case: Case,
    kv_dtype: str,
    cores: list[int],
    reads: float,
    write: _Write,
) -> Row:
    with on_cores(cores[:1]):
        dense = case.batch / min(_dense_seconds(loaded, case.batch) for _ in range(2))
        attention = reads / (case.context * loaded.spec.kv_bytes_per_token(kv_dtype))
        write(
            f"context {case.context}, KV in {kv_dtype}; roofs in tokens/s: dense step {dense:.1f}, "
            f"the worker's reads {attention:.1f}"
        )
        same = _single(plan, loaded, case, kv_dtype)
    with on_cores(cores):
        both = _single(plan, loaded, case, kv_dtype)
    two, busy, overhead = _two_tier(plan, loaded, case, kv_dtype, cores)
    row = Row(
        case.context,
        kv_dtype,
        round(same, 1),
        round(both, 1),
        round(two, 1),
        ratio_same_core=round(two / same, 2),
        ratio_both_cores=round(two / both, 2),
        tier1_busy=round(busy[0], 3),
        tier2_busy=round(busy[1], 3),
        wire_overhead=round(overhead, 3),
        dense_roof=round(dense, 1),
    )
    write(
        f"  one tier, {case.capped} sequences: {same:.1f} (same core), {both:.1f} (both cores); "
        f"two tiers, {case.batches} x {case.batch}: {two:.1f}, "
        f"{row.ratio_same_core:.2f} and {row.ratio_both_cores:.2f} times as fast; "
        f"busy {busy[0]:.0%}, {busy[1]:.0%}; wire {overhead:.3f} of the minimum"
    )
    return row


def _latencies(plan: Plan, loaded: LoadedModel, cores: list[int], write: _Write) -> list[Link]:
    """The same batches over links of different length, as many of them as ``auto`` would take."""
    links: list[Link] = []
    context, batch = plan.cases[0].context, plan.latency_batch
    with on_cores(cores[:1]):
        step_s = min(_dense_seconds(loaded, batch) for _ in range(2))
    for ms in plan.latencies:
        batches = batches_to_hide(2e-3 * ms, step_s / len(loaded.spec.layers))
        case = Case(context, 0, batch, batches)
        speed, _, _ = _two_tier(plan, loaded, case, "bfloat16", cores, 1e-3 * ms)
        share = speed / links[0].tokens_per_s if links else 1.0
        links.append(Link(ms, batches, round(speed, 1), round(share, 3)))
        write(f"link of {ms} ms each way, {batches} batches of {batch}: {speed:.1f} tokens/s")
    return links


def _dense_seconds(loaded: LoadedModel, rows: int) -> float:
    return DensePass(loaded.model, loaded.spec.layers, rows).seconds()


def _single(plan: Plan, loaded: LoadedModel, case: Case, kv_dtype: str) -> float:
    """Tokens a second of the capped single tier."""
    threads = torch.get_num_threads()
    num_bytes = kv_bytes(loaded.spec.layers, case.capped, case.context, kv_dtype)
    cache = KVCache(loaded.spec.layers, num_bytes, kv_dtype, threads=threads, on_torch_threads=True)
    return _Decoding(loaded, LocalHome(0, cache), case.context, [case.capped]).speed(plan)


def _two_tier(
    plan: Plan,
    loaded: LoadedModel,
    case: Case,
    kv_dtype: str,
    cores: list[int],
    delay_s: float = 0.0,
) -> tuple[float, tuple[float, float], float]:
    """Tokens a second, what share of the time each tier was busy, and wire bytes over minimum."""
    num_bytes = kv_bytes(loaded.spec.layers, case.batch * case.batches, case.context, kv_dtype)
    with worker_on(cores[1:] or cores, num_bytes, delay_s) as address, on_cores(cores[:1]):
        return _run_worker(plan, loaded, case, kv_dtype, address)


def _run_worker(
    plan: Plan, loaded: LoadedModel, case: Case, kv_dtype: str, address: Address
) -> tuple[float, tuple[float, float], float]:
    with open_home(address, loaded, kv_dtype) as home:
        decoding = _Decoding(loaded, home, case.context, [case.batch] * case.batches)
        busy_before = home.ask(START_S).busy_s
        speed = decoding.speed(plan)
        busy = home.ask(START_S).busy_s - busy_before
        traffic = home.traffic.decode_bytes_out + home.traffic.decode_bytes_back
        minimum = decoding.total_tokens * loaded.spec.wire_bytes_per_token
        return speed, (decoding.tier1_busy, busy / decoding.total_s), traffic / minimum


@dataclass
class _Decoding:
    """Batches that step again as soon as they are done, over KV of random values.

    Each step writes the same position again, so that the context stays what it is.
    """

    loaded: LoadedModel
    home: Home
    context: int
    sizes: list[int]
    total_tokens: int = 0
    total_s: float = 0.0
    tier1_busy: float = 0.0
    _groups: list[list[Sequence]] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = iter(range(sum(self.sizes)))
        prompt = tuple(5 + i % 1000 for i in range(self.context))
        params = SamplingParams(temperature=0)
        self._groups = [
            [Sequence(Request(next(numbers), prompt, params, 0, 1 << 20)) for _ in range(size)]
            for size in self.sizes
        ]
        self._fill()
        self._node = Node(self.loaded.model, self.loaded.spec.layers, [self.home], sample_batch)

    @torch.inference_mode()
    def _fill(self) -> None:
        """Random keys and values, the same for every sequence: attention does not care."""
        layers = self.loaded.spec.layers
        dtype = self.loaded.model.dtype
        kv = [
            tuple(
                torch.randn(self.context, layer.num_kv_heads, size).to(dtype)
                for size in (layer.head_dim, layer.value_dim)
            )
            for layer in layers[:1]
        ] * len(layers)
        for sequence in (s for group in self._groups for s in group):
            self.home.begin(sequence.id, [], [Span(sequence, self.home.id, 0, self.context)])
            for index, (k, v) in enumerate(kv):
                self.home.store(sequence.id, index, k, v)
            self.home.finish(sequence.id)
            sequence.output.append(7)
        if isinstance(self.home, RemoteHome):
            self.home.ask(600.0)

    def speed(self, plan: Plan) -> float:
        """Tokens a second after one step of each batch that does not count."""
        for index in range(len(self._groups)):
            self._start(index)
        self._run(lambda counts: min(counts) >= 1)
        begun, busy = time.perf_counter(), self._node.busy_s
        tokens_before = self.total_tokens

        def enough(counts: list[int]) -> bool:
            return min(counts) >= plan.steps and time.perf_counter() - begun >= plan.seconds

        self._run(enough)
        elapsed = time.perf_counter() - begun
        self.tier1_busy = (self._node.busy_s - busy) / elapsed
        return (self.total_tokens - tokens_before) / elapsed

    def _start(self, index: int) -> None:
        """Step a group; a batch has the number of its group."""
        spans = tuple(Span(s, self.home.id, s.length - 1, 1) for s in self._groups[index])
        self._node.start(Batch(index, spans, ()))

    def _run(self, enough: Callable[[list[int]], bool]) -> None:
        begun, counts = time.perf_counter(), [0] * len(self._groups)
        while not enough(counts):
            for batch, _ in self._node.poll():
                counts[batch.id] += 1
                self.total_tokens += len(batch.extends)
                self._start(batch.id)
        self.total_s += time.perf_counter() - begun
