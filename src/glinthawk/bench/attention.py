"""Tier-2 attention against the speed of memory: the read roof first, then what is reached."""

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from glinthawk import _native
from glinthawk.bench.timing import medians
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.backends.torch import attend_sequence
from glinthawk.tier2.pages.page_table import PageTable, SpanTable

__all__ = ["AttentionPlan", "BackendRow", "run"]

_Write = Callable[[str], None]

_PAGE_TOKENS = 32
_ROOF_BYTES = 1 << 30
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What is measured. Every figure is the median of ``rounds`` that alternate with the others."""

    shapes: tuple[tuple[int, int], ...] = ((128, 1), (128, 4), (128, 8), (64, 4), (64, 8))
    contexts: tuple[int, ...] = (512, 2048, 8192)
    kv_dtypes: tuple[str, ...] = ("bfloat16", "int8")
    working_set: int = _GIB
    rounds: int = 9
    longest: int = 32_768

    @classmethod
    def quick(cls) -> "AttentionPlan":
        """A look in a minute: fewer shapes, and a working set that just exceeds the caches."""
        return cls(
            shapes=((128, 1), (128, 8)),
            contexts=(2048,),
            working_set=_GIB // 4,
            rounds=5,
            longest=8192,
        )


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One line of the table: gigabytes of keys and values per second."""

    head_dim: int
    group: int
    context: int
    kv_dtype: str
    threads: int
    gbps: float
    roof_gbps: float
    ratio: float
    sdpa_gbps: float


def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    torch.manual_seed(0)
    plan = AttentionPlan.quick() if quick else AttentionPlan()
    # A cache of one thread for each CPU is what a worker runs; one thread shows the kernel alone.
    all_threads = _backend(_layer(64, 1, 1), 1, "float32", 0).threads
    counts = sorted({1, all_threads})
    roofs = {threads: _native.Roof(_ROOF_BYTES, threads) for threads in counts}
    for threads, roof in roofs.items():
        best = max(roof.measure() for _ in range(plan.rounds)) / 1e9
        write(f"read roof, {threads} threads: {best:.1f} GB/s")
    rows = _table(plan, roofs, write)
    summary = {
        "rows": [asdict(row) for row in rows],
        "ragged_over_uniform": _ragged(plan, all_threads, write),
        "shared_speedup": {group: _shared(plan, group, all_threads, write) for group in (1, 4, 8)},
        "int8_tokens_over_bfloat16": _int8_gain(rows),
        "relative_error": {kv: _error(kv, write) for kv in plan.kv_dtypes},
    }
    write(json.dumps(summary))


def _layer(head_dim: int, group: int, kv_heads: int) -> AttentionLayer:
    return AttentionLayer(group * kv_heads, kv_heads, head_dim, head_dim, head_dim**-0.5)


def _backend(layer: AttentionLayer, num_pages: int, kv_dtype: str, threads: int) -> NativeBackend:
    return NativeBackend((layer,), num_pages, _PAGE_TOKENS, kv_dtype, threads)


def _token_bytes(layer: AttentionLayer, kv_dtype: str) -> float:
    scales = 4 * layer.num_kv_heads if kv_dtype == "int8" else 0
    return layer.kv_elements * {"int8": 1, "float32": 4}.get(kv_dtype, 2) + scales


def _num_pages(lengths: list[int]) -> int:
    return sum(-(-length // _PAGE_TOKENS) for length in lengths)


def _fill(backend: NativeBackend, layer: AttentionLayer, lengths: list[int]) -> SpanTable:
    """Random keys and values for sequences of ``lengths``; the table of their last tokens."""
    pages = PageTable(_num_pages(lengths), _PAGE_TOKENS)
    longest = max(lengths)
    shape = (longest, layer.num_kv_heads, layer.head_dim)
    keys, values = (torch.randn(shape).bfloat16() for _ in range(2))
    for sequence, length in enumerate(lengths):
        table = pages.table([sequence], [0], [length])
        backend.append(0, table, keys[:length], values[:length])
    count = len(lengths)
    return pages.table(list(range(count)), [length - 1 for length in lengths], [1] * count)


def _queries(layer: AttentionLayer, count: int) -> torch.Tensor:
    return torch.randn(count, layer.num_heads, layer.head_dim).bfloat16()


def _table(
    plan: AttentionPlan, roofs: dict[int, "_native.Roof"], write: _Write
) -> list[BackendRow]:
    write("head_dim group context threads  kv_dtype    GB/s   roof  ratio   sdpa")
    rows = []
    for head_dim, group in plan.shapes:
        for context in plan.contexts:
            layer = _layer(head_dim, group, 8 if context * head_dim < 2**20 else 4)
            for threads, roof in roofs.items():
                sdpa = _sdpa_speed(plan, layer, context, threads)
                for kv_dtype in plan.kv_dtypes:
                    gbps, peak = _speeds(plan, layer, context, kv_dtype, threads, roof)
                    row = BackendRow(
                        head_dim,
                        group,
                        context,
                        kv_dtype,
                        threads,
                        gbps=round(gbps, 2),
                        roof_gbps=round(peak, 2),
                        ratio=round(gbps / peak, 3),
                        sdpa_gbps=round(sdpa, 2),
                    )
                    rows.append(row)
                    write(
                        f"{head_dim:8} {group:5} {context:7} {threads:7}  {kv_dtype:9} "
                        f"{gbps:6.1f} {peak:6.1f} {row.ratio:6.2f} {sdpa:6.1f}"
                    )
    return rows


def _batch(plan: AttentionPlan, layer: AttentionLayer, context: int, kv_dtype: str) -> int:
    """Sequences of ``context`` tokens that fill the working set; at least 64."""
    return max(64, math.ceil(plan.working_set / (context * _token_bytes(layer, kv_dtype))))


def _speeds(
    plan: AttentionPlan,
    layer: AttentionLayer,
    context: int,
    kv_dtype: str,
    threads: int,
    roof: "_native.Roof",
) -> tuple[float, float]:
    """GB/s of the kernel, and of reading memory in turn with it."""
    batch = _batch(plan, layer, context, kv_dtype)
    lengths = [context] * batch
    backend = _backend(layer, _num_pages(lengths), kv_dtype, threads)
    table, queries = _fill(backend, layer, lengths), _queries(layer, batch)
    peaks: list[float] = []
    seconds, _ = medians(
        plan.rounds,
        lambda: backend.attend(0, table, queries),
        lambda: peaks.append(roof.measure() / 1e9),
    )
    num_bytes = batch * context * _token_bytes(layer, kv_dtype)
    return num_bytes / seconds / 1e9, statistics.median(peaks[1:])


def _sdpa_speed(plan: AttentionPlan, layer: AttentionLayer, context: int, threads: int) -> float:
    """GB/s of torch's own attention on the same work in bfloat16."""
    batch = _batch(plan, layer, context, "bfloat16")
    (seconds,) = medians(max(2, plan.rounds // 4), _sdpa(layer, context, batch, threads))
    return batch * context * _token_bytes(layer, "bfloat16") / seconds / 1e9


def _sdpa(
    layer: AttentionLayer, context: int, batch: int, threads: int
) -> Callable[[], torch.Tensor]:
    """The same work as torch likes it best: one dense bfloat16 tensor, and the query heads of a KV
    head as if they were tokens, so that keys are not repeated for each of them."""
    shape = (batch, layer.num_kv_heads, context, layer.head_dim)
    some = torch.randn(layer.num_kv_heads, context, layer.head_dim).bfloat16()
    keys, values = (some.expand(shape).contiguous() for _ in range(2))
    queries = _queries(layer, batch).unflatten(1, (layer.num_kv_heads, -1))

    def call() -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        output = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
        torch.set_num_threads(before)
        return output

    return call


def _ragged(plan: AttentionPlan, threads: int, write: _Write) -> float:
    """Speed of 64 sequences of 16 to ``longest`` tokens over that of a uniform batch."""
    layer = _layer(128, 4, 8)
    step = (plan.longest / 16) ** (1 / 63)
    ragged = [round(16 * step**i) for i in range(64)]
    uniform = [sum(ragged) // 64] * 64
    calls = []
    for lengths in (ragged, uniform):
        backend = _backend(layer, _num_pages(lengths), "bfloat16", threads)
        table, queries = _fill(backend, layer, lengths), _queries(layer, 64)
        calls.append(lambda b=backend, t=table, q=queries: b.attend(0, t, q))
    seconds = medians(plan.rounds, *calls)
    speed = (sum(ragged) / seconds[0]) / (sum(uniform) / seconds[1])
    write(f"ragged batch (16 to {plan.longest} tokens): {speed:.2f} of a uniform one's speed")
    return float(round(speed, 3))


def _shared(plan: AttentionPlan, group: int, threads: int, write: _Write) -> float:
    """64 sequences behind one prefix of 2048 tokens: shared pages over private ones."""
    layer, prefix, count = _layer(128, group, 8), 2048, 64
    lengths = [prefix + _PAGE_TOKENS] * count
    backend = _backend(layer, _num_pages(lengths), "bfloat16", threads)
    private, queries = _fill(backend, layer, lengths), _queries(layer, count)
    pages = private.pages.view(count, -1).clone()
    pages[:, : prefix // _PAGE_TOKENS] = pages[0, : prefix // _PAGE_TOKENS]
    shared = SpanTable(
        private.starts, private.lengths, pages.flatten(), private.offsets, private.num_rows
    )
    # A table in use is kept by its identity; two in turn would be planned again every time.
    other = _backend(layer, _num_pages(lengths), "bfloat16", threads)
    _fill(other, layer, lengths)
    with_shared, with_private = medians(
        plan.rounds,
        lambda: other.attend(0, shared, queries),
        lambda: backend.attend(0, private, queries),
    )
    speedup = with_private / with_shared
    write(f"64 sequences sharing 2048 tokens, group {group}: {speedup:.1f} times as fast")
    return round(speedup, 2)


def _int8_gain(rows: list[BackendRow]) -> dict[str, float]:
    """Tokens a second of int8 over those of bfloat16, by shape, context and threads."""
    gains = {}
    speeds = {(r.head_dim, r.group, r.context, r.threads, r.kv_dtype): r.gbps for r in rows}
    for (head_dim, group, context, threads, kv_dtype), gbps in speeds.items():
        base = speeds.get((head_dim, group, context, threads, "bfloat16"))
        if kv_dtype == "int8" and base:
            layer = _layer(head_dim, group, 1)
            smaller = _token_bytes(layer, "bfloat16") / _token_bytes(layer, "int8")
            gains[f"{head_dim},{group},{context},{threads}"] = round(gbps / base * smaller, 2)
    return gains


def _error(kv_dtype: str, write: _Write) -> float:
    """Relative norm of the output's error against float32, on random normal data."""
    layer, length = _layer(128, 8, 8), 2048
    backend = _backend(layer, _num_pages([length]), kv_dtype, 0)
    table = PageTable(_num_pages([length]), _PAGE_TOKENS).table([0], [0], [length])
    keys, values = (torch.randn(length, layer.num_kv_heads, 128) for _ in range(2))
    backend.append(0, table, keys, values)
    last = SpanTable(
        table.starts + length - 1, torch.ones_like(table.lengths), table.pages, table.offsets, 1
    )
    queries = torch.randn(1, layer.num_heads, 128)
    expected = attend_sequence(queries, keys, values, layer)[0]
    output = backend.attend(0, last, queries)[0]
    error = float((output - expected).norm() / expected.norm())
    write(f"{kv_dtype}: relative error {100 * error:.2f} %")
    return round(error, 5)
