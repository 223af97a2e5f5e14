"""INF^2 (arXiv 2502.09921): attention beside the drives that keep the KV cache.

A step streams the weights from the host's memory over the accelerator's link, and moves KV over the
same link (FlexGen's way), or reads it inside the drives. These are bounds: drives, link and
arithmetic at their best, nothing else counted. Then the same comparison for this engine, whose
weights stay where they are, by the estimate and the simulator of its planner.
"""

from collections.abc import Iterator
from dataclasses import replace

from claims.formulas import (
    cached_input_bytes,
    cached_input_share,
    near_storage_gain,
    near_storage_speedup,
)
from claims.table import Table
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.plan import Plan
from glinthawk.core.shape import ModelShape
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.estimate import Estimator
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.roofline import Roofline, roofline_slices
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.workload import Workload

__all__ = ["tables"]

#: The accelerator's PCIe 4.0 link, and all drives' own reads together: three times as much, as
#: measured there with 16 drives.
_LINK = 24e9
_STORAGE = 3 * _LINK
#: Sequences under way, in two batches, and how long they are in the middle of their answers.
_LIVING, _CONTEXT = 32, 32768


def tables() -> Iterator[Table]:
    yield _bytes()
    yield _gain()
    yield _own()


def _bytes() -> Table:
    rows = []
    for name in ("OPT-30B", "OPT-175B", "Qwen2.5-32B", "Llama-3.3-70B"):
        one = known_shape(name).attention[0]
        group = one.num_heads // one.num_kv_heads
        rows.append(
            (
                name,
                group,
                *(near_storage_gain(context, group) for context in (1024, 32768)),
                cached_input_bytes(group),
            )
        )
    header = ("model", "query heads per KV head", "times fewer bytes at 1024", "at 32768")
    return Table("storage-bytes", (*header, "inputs over KV"), rows)


def _gain() -> Table:
    share = cached_input_share(_LINK, _STORAGE)
    rows = []
    for name in ("OPT-30B", "OPT-66B", "OPT-175B", "Qwen2.5-32B"):
        shape = known_shape(name)
        one = shape.attention[0]
        inputs = cached_input_bytes(one.num_heads // one.num_kv_heads)
        for context in (8192, 32768):
            kv = 32 * context * shape.kv_bytes_per_token("float16")
            weights_s = shape.weight_bytes / _LINK
            moved_s = weights_s + kv / _LINK
            read = (1 - share + share * inputs) * kv / _STORAGE
            mixed_s = weights_s + max(read, share * inputs * kv / _LINK)
            rows.append(
                (
                    f"{name}, {context}",
                    kv / shape.weight_bytes,
                    near_storage_speedup(_STORAGE, _LINK, kv, weights_s),
                    moved_s / mixed_s,
                )
            )
    header = ("model, context at batch 32", "KV over weights", "attention near storage, times")
    return Table("storage-gain", (*header, "with half as inputs"), rows)


def _own() -> Table:
    rows = []
    for name in ("OPT-30B", "Qwen2.5-32B"):
        shape = known_shape(name)
        for times in (1, 2, 3, 4):
            rows.append((f"{name}, {times}", *_compare(shape, times)))
    header = ("model, drives over link", "KV moved, tokens/s", "near storage", "times", "binds")
    return Table(
        "storage-own", (*header, "simulated, times", "best share of inputs", "times"), rows
    )


def _compare(shape: ModelShape, times: int) -> tuple[object, ...]:
    """Answers of 2048 tokens around the context, so that prompts count for little."""
    costs = _machines(shape, times)
    estimator = Estimator(costs, Workload.fixed(_CONTEXT - 1024, 2048))
    near = _plan(shape)
    fetch = replace(near, kv_placement="fetch")
    share = estimator.balance(near, 1 << 50)
    moved, there, mixed = (
        estimator.estimate(plan) for plan in (fetch, near, replace(near, xcache=share))
    )
    return (
        moved.tokens_per_s,
        there.tokens_per_s,
        there.tokens_per_s / moved.tokens_per_s,
        there.binds,
        _decode_rate(near, costs) / _decode_rate(fetch, costs),
        share,
        mixed.tokens_per_s / moved.tokens_per_s,
    )


def _machines(shape: ModelShape, times: int) -> list[Roofline]:
    """An A100 of 80 GB; drives that read so many times what the link carries, beside cores that
    keep up with them."""
    catalogue, reads = load_catalogue(), times * _LINK
    near = replace(catalogue.machine("A100-80G"), host_bandwidth=_LINK)
    far = replace(
        catalogue.machine("L80as_v3"),
        bandwidth=2 * reads,
        bandwidth_share=1.0,
        flops=1e15,
        network=_LINK,
        storage_reads=reads,
        storage_writes=reads,
        storage_share=1.0,
    )
    return roofline_slices(shape, 1, near, far, LinkCost(0.0, _LINK), "float16")


def _plan(shape: ModelShape) -> Plan:
    """Memory for tails alone; all prompts of a batch in one step, after which it only decodes."""
    page = PAGE_TOKENS * shape.kv_bytes_per_token("float16")
    return Plan(
        model=shape.name,
        kv_dtype="float16",
        workers_per_slice=1,
        batch_size=_LIVING // 2,
        batches_in_flight=2,
        batch_tokens=_LIVING * _CONTEXT,
        tier1_kv=0,
        worker_kv=2 * _LIVING * page,
        worker_storage=2 * _LIVING * _CONTEXT // PAGE_TOKENS * page,
    )


def _decode_rate(plan: Plan, costs: list[Roofline]) -> float:
    """Simulated tokens a second from when all sequences have begun."""
    shape = costs[0].shape
    requests = Workload.fixed(_CONTEXT - 32, 64).requests(_LIVING)
    progress = Simulator(plan, costs, plan.pages(shape)).run(requests).progress
    begun = next(one for one in progress if one[1] >= 2 * _LIVING)
    return (progress[-1][1] - begun[1]) / (progress[-1][0] - begun[0])
