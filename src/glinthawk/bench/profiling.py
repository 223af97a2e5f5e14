"""A model on this machine, measured for the planner: each part of a step over its sizes.

Tier 1 and the worker have cores of their own and work at the same time, as in a run, while the
figures of two tiers are taken: they share the memory, and what that costs belongs to them.
"""

import datetime
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch

from glinthawk.bench.decoding import Decoding
from glinthawk.bench.layouts import START_S, kv_bytes, on_cores, open_home
from glinthawk.bench.stub import engine_seconds
from glinthawk.bench.timing import medians
from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as Answering
from glinthawk.core.spec import AttentionLayer
from glinthawk.engine.tuning import choose_prompt_attention, round_trip
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.profile import Curve, Grid, Profile
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.forward.prompt_attention import PromptAttention
from glinthawk.tier1.kv.home import Home, LocalHome
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.sampler import sample_batch
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.address import Address

__all__ = ["Bench", "Sizes", "bandwidth", "measure_link", "measure_profile"]

_Write = Callable[[str], None]

#: Batches under way while two tiers are measured.
_IN_FLIGHT = 2
#: What is sent to find a link's bandwidth.
_LINK_CONTEXT, _LINK_ROWS = 256, 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """Where is measured. Of the attention grid, what needs more KV than ``kv_bytes`` is left
    out."""

    rows: tuple[int, ...] = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048)
    decode_rows: tuple[int, ...] = (1, 4, 16, 64, 256)
    contexts: tuple[int, ...] = (64, 256, 1024, 4096)
    prompts: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    kv_bytes: int = 4 << 30
    seconds: float = 1.0
    rounds: int = 3

    @classmethod
    def quick(cls) -> "Sizes":
        """A look in a minute."""
        return cls(
            (1, 16, 64, 256), (4, 16, 64), (64, 1024), (64, 512), 1 << 30, seconds=0.2, rounds=1
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """The machines: ``open_worker`` gives the address of a worker with so much KV memory."""

    loaded: LoadedModel
    tier1_cores: list[int]
    worker_threads: int
    open_worker: Callable[[int], AbstractContextManager[Address]] | None


@dataclass(slots=True)
class _Far:
    """What two tiers showed."""

    parcel: list[tuple[float, float]] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    store: dict[str, float] = field(default_factory=dict)
    prompt_parcel: float = 0.0
    link: LinkCost = field(default_factory=lambda: LinkCost(0.0, 1e9))


def measure_profile(
    bench: Bench, kv_dtypes: Sequence[str], write: _Write, sizes: Sizes | None = None
) -> Profile:
    """Measure; ``write`` is told how it goes."""
    sizes = sizes or Sizes()
    loaded, spec = bench.loaded, bench.loaded.spec
    with on_cores(bench.tier1_cores):
        write("dense steps")
        dense, head = _dense(loaded, sizes)
        write("prompts")
        attend = choose_prompt_attention(loaded)
        prompt = Curve(tuple((n, _prompt_seconds(loaded, attend, n, sizes)) for n in sizes.prompts))
        write("sampling and scheduling")
        sample = Curve(tuple((n, _sample_seconds(loaded, n, sizes)) for n in sizes.decode_rows))
        step = Curve(tuple((n, s + engine_seconds(int(n))) for n, s in sample.points))
        parts = _Parts(dense, head, sample)
        near = {one: _near(bench, parts, one, sizes, write) for one in kv_dtypes}
    far = _Far()
    if bench.open_worker is not None:
        far.link = measure_link(bench)
        for one in kv_dtypes:
            _measure_far(bench, parts, far, one, sizes, write)
    return Profile(
        machine=f"{platform.node()}, {platform.machine()}",
        date=datetime.date.today().isoformat(),
        model=spec.name,
        dtype=spec.dtype,
        tier1_threads=len(bench.tier1_cores),
        worker_threads=bench.worker_threads,
        dense=dense,
        head=head,
        prompt=prompt,
        step=step,
        parcel=Curve(tuple(far.parcel) or ((1.0, 0.0),)),
        prompt_parcel=far.prompt_parcel,
        near=near,
        far=far.grids,
        store=far.store,
        link_latency_s=far.link.latency_s,
        link_bytes_per_s=far.link.bytes_per_s,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Of Tier 1's step, what is known without attention."""

    dense: Curve
    head: Curve
    sample: Curve

    def seconds(self, rows: int) -> float:
        return self.dense.at(rows) + self.head.at(rows) + self.sample.at(rows)


def _dense(loaded: LoadedModel, sizes: Sizes) -> tuple[Curve, Curve]:
    """Steps with one row's logits, and what the logits of all rows add."""
    body, head = [], []
    layers = loaded.spec.layers
    for rows in sizes.rows:
        one, every = (DensePass(loaded.model, layers, rows, num_logits=n) for n in (1, rows))
        one_s, every_s = medians(sizes.rounds, one, every)
        body.append((float(rows), one_s))
        if rows <= max(sizes.decode_rows):
            head.append((float(rows), max(0.0, every_s - one_s)))
    return Curve(tuple(body)), Curve(tuple(head))


@torch.inference_mode()
def _prompt_seconds(
    loaded: LoadedModel, attend: PromptAttention, length: int, sizes: Sizes
) -> float:
    """Of one prompt, over all layers; each kind of layer is measured once."""
    dtype = loaded.model.dtype
    total = 0.0
    for layer, count in Counter(loaded.spec.layers).items():
        q, k, v = (torch.randn(length, *shape).to(dtype) for shape in _row_shapes(layer))
        (seconds,) = medians(sizes.rounds, lambda: attend(q, k, v, [length], layer))  # noqa: B023
        total += count * seconds
    return total


def _row_shapes(layer: AttentionLayer) -> tuple[tuple[int, int], ...]:
    """q, k and v of a token."""
    return (
        (layer.num_heads, layer.head_dim),
        (layer.num_kv_heads, layer.head_dim),
        (layer.num_kv_heads, layer.value_dim),
    )


@torch.inference_mode()
def _sample_seconds(loaded: LoadedModel, rows: int, sizes: Sizes) -> float:
    logits = torch.randn(rows, loaded.spec.vocab_size).to(loaded.model.dtype)
    params = SamplingParams(temperature=0)
    sequences = [Answering(Request(n, (5,), params, 0, 8)) for n in range(rows)]
    batch = Batch(0, tuple(Span(one, 0, 1, 1) for one in sequences), ())
    (seconds,) = medians(sizes.rounds, lambda: sample_batch(batch, logits))
    return seconds


def _points(sizes: Sizes, bytes_per_token: int) -> Iterator[tuple[int, list[int]]]:
    """Contexts, and for each the rows of a batch for which there is memory."""
    for context in sizes.contexts:
        most = sizes.kv_bytes // (_IN_FLIGHT * (context + 64) * bytes_per_token)
        rows = [count for count in sizes.decode_rows if count <= most]
        if rows:
            yield context, rows


def _near(bench: Bench, parts: _Parts, kv_dtype: str, sizes: Sizes, write: _Write) -> Grid:
    """Attention to what Tier 1 keeps itself."""
    loaded, grid = bench.loaded, []
    for context, counts in _points(sizes, loaded.spec.kv_bytes_per_token(kv_dtype)):
        write(f"Tier 1's own KV in {kv_dtype}, {context} tokens")
        num_bytes = kv_bytes(loaded.spec.layers, counts[-1], context, kv_dtype)
        threads = len(bench.tier1_cores)
        layers = loaded.spec.layers
        cache = KVCache(layers, num_bytes, kv_dtype, threads=threads, on_torch_threads=True)
        points = []
        for rows in counts:
            decoding = Decoding(loaded, LocalHome(0, cache), context, [rows])
            seconds = rows / decoding.speed(sizes.seconds, sizes.rounds) - parts.seconds(rows)
            points.append((float(rows), max(seconds, 1e-6)))
            cache.clear()
        grid.append((float(context), Curve(tuple(points))))
    return Grid(tuple(grid))


def _measure_far(
    bench: Bench, parts: _Parts, far: _Far, kv_dtype: str, sizes: Sizes, write: _Write
) -> None:
    """Batches take turns between Tier 1 and a worker; how long each is busy for a step."""
    loaded, grid = bench.loaded, []
    assert bench.open_worker is not None
    points = list(_points(sizes, loaded.spec.kv_bytes_per_token(kv_dtype)))
    most = max(
        kv_bytes(loaded.spec.layers, _IN_FLIGHT * counts[-1], context, kv_dtype)
        for context, counts in points
    )
    for context, counts in points:
        write(f"a worker with KV in {kv_dtype}, {context} tokens")
        curve = []
        for rows in counts:
            with _open(bench, most, kv_dtype) as home:
                turns = _take_turns(loaded, home, context, rows, sizes)
            curve.append((float(rows), turns.worker_s))
            far.store[kv_dtype] = turns.store_s
            if context == points[0][0] and len(far.grids) == 0:
                far.parcel.append((float(rows), max(0.0, turns.tier1_s - parts.seconds(rows))))
                far.prompt_parcel = turns.send_s
        grid.append((float(context), Curve(tuple(curve))))
    far.grids[kv_dtype] = Grid(tuple(grid))


@contextmanager
def _open(bench: Bench, num_bytes: int, kv_dtype: str) -> Iterator[Home]:
    assert bench.open_worker is not None
    with (
        bench.open_worker(num_bytes) as address,
        on_cores(bench.tier1_cores),
        open_home(address, bench.loaded, kv_dtype) as home,
    ):
        yield home


def measure_link(bench: Bench) -> LinkCost:
    """Half a round trip, and the bytes that went through in a second while contexts were sent:
    the worker took them in meanwhile, so a link may carry more."""
    spec = bench.loaded.spec
    num_bytes = kv_bytes(spec.layers, _LINK_ROWS, _LINK_CONTEXT, spec.dtype)
    with _open(bench, num_bytes, spec.dtype) as home:
        (link,) = home.links
        latency_s = round_trip(link) / 2
        begun = time.perf_counter()
        Decoding(bench.loaded, home, _LINK_CONTEXT, [_LINK_ROWS])
        seconds = time.perf_counter() - begun
    tokens = _LINK_CONTEXT * _LINK_ROWS
    num_bytes = tokens * spec.kv_bytes_per_token(spec.dtype)
    return LinkCost(latency_s, bandwidth(num_bytes, seconds, latency_s))


def bandwidth(num_bytes: int, seconds: float, latency_s: float) -> float:
    """Bytes a second of what was sent and answered in ``seconds``. The latency was measured at
    another moment: however long it took then, sending took some of the time."""
    return num_bytes / max(seconds - 2 * latency_s, 0.1 * seconds)


@dataclass(frozen=True, slots=True)
class _Turns:
    """Seconds that each is busy for a step, and for a token of a prompt."""

    tier1_s: float
    worker_s: float
    store_s: float
    send_s: float


def _take_turns(loaded: LoadedModel, home: Home, context: int, rows: int, sizes: Sizes) -> _Turns:
    (link,) = home.links
    decoding = Decoding(loaded, home, context, [rows] * _IN_FLIGHT)
    tokens = context * rows * _IN_FLIGHT
    store_s = link.ask(START_S).busy_s
    decoding.speed(sizes.seconds, sizes.rounds)
    steps = decoding.total_tokens / rows
    return _Turns(
        decoding.busy_s / steps,
        (link.ask(START_S).busy_s - store_s) / steps,
        store_s / tokens,
        decoding.fill_s / tokens,
    )
