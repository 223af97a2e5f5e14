"""A whole job on one tier and on two: prompts, decoding, ragged ends, scheduler and all.

Tier 1 has one core and KV memory for few sequences, as in ``bench tiers``. Beside one tier alone
(on the same core, and on both) stand two tiers, and hybrid ones that keep KV on Tier 1 as well;
once more with a worker at the end of so long a link that it should be left alone.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import torch

from glinthawk import _native
from glinthawk.bench.decoding import choice_rules
from glinthawk.bench.layouts import far_worker_on, kv_bytes, on_cores, open_home, worker_on
from glinthawk.bench.random_models import load_shape
from glinthawk.core.config import EngineConfig
from glinthawk.core.sequence import Request
from glinthawk.engine.node_opening import join_homes
from glinthawk.engine.run import Run, run_on
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.kv.home import Home, LocalHome
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier2.cache import KVCache

__all__ = ["JobPlan", "JobRow", "Layout", "run"]

_Write = Callable[[str], None]
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Layout:
    """Where KV lies and who computes."""

    name: str
    cores: int = 1
    tier1_kv: bool = True
    worker: bool = False
    #: Each way to the worker.
    link_s: float = 0.0
    #: Of the job's requests, this share is run: where all take one speed, few say it.
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The job, and room for ``capped`` of its sequences on Tier 1."""

    model: str = "L"
    requests: int = 1024
    prompt: int = 32
    new: int = 224
    capped: int = 8
    #: Whether tokens are drawn with top-p; else the likeliest are taken.
    sampled: bool = False
    layouts: tuple[Layout, ...] = (
        Layout("single_same_core", share=1 / 32),
        Layout("single_both_cores", cores=2, share=1 / 32),
        Layout("two_tier", tier1_kv=False, worker=True),
        Layout("hybrid", worker=True),
        Layout("hybrid_far", worker=True, link_s=0.5, share=1 / 32),
    )


@dataclass(frozen=True, slots=True)
class JobRow:
    """What a layout made of its part of the job."""

    layout: str
    requests: int
    tokens_per_s: float
    #: Of the single tier on the same core.
    ratio: float
    tier1_busy: float
    tier2_busy: float
    #: Of the requests, those answered at the worker.
    at_worker: float


def run(
    write: _Write, *, quick: bool = False, requests: int | None = None, sampled: bool = False
) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = JobPlan("M", 24, new=16, capped=4) if quick else JobPlan()
    if requests is not None:
        plan = JobPlan(plan.model, requests, plan.prompt, plan.new)
    plan = replace(plan, sampled=sampled)
    cores = sorted(os.sched_getaffinity(0))[:2]
    torch.manual_seed(0)
    torch.set_num_threads(len(cores))
    loaded = load_shape(plan.model)
    with on_cores(cores[:1]):
        rows = min(256, plan.requests)
        dense = rows / DensePass(loaded.model, loaded.spec.layers, rows).seconds()
    reads = _native.Roof(_GIB, 1).measure()
    write(
        f"{plan.requests} requests of {plan.prompt} + {plan.new} tokens; roofs: Tier 1 "
        f"{dense:.1f} tokens/s in dense steps of {rows} rows, "
        f"the worker's reads {reads / 1e9:.1f} GB/s"
    )
    results: list[JobRow] = []
    for layout in plan.layouts:
        results.append(_measure(plan, layout, loaded, cores, results[0] if results else None))
        write("  " + "  ".join(f"{name} {value}" for name, value in asdict(results[-1]).items()))
    summary = {"model": plan.model, "sampled": sampled}
    write(json.dumps({**summary, "rows": [asdict(row) for row in results]}))


def _measure(
    plan: JobPlan, layout: Layout, loaded: LoadedModel, cores: list[int], base: JobRow | None
) -> JobRow:
    count = max(2 * plan.capped, round(plan.requests * layout.share))
    with ExitStack() as stack:
        own = cores[: layout.cores]
        homes = list(_homes(stack, plan, layout, loaded, cores))
        stack.enter_context(on_cores(own))
        # Tier 1's own memory is made when its threads are known.
        if layout.tier1_kv:
            homes.insert(0, _local_home(plan, loaded))
        config = EngineConfig(model=plan.model)
        running = run_on(config, join_homes(config, loaded, homes))
        return _answer(running, layout, list(_requests(plan, count)), base)


def _homes(
    stack: ExitStack, plan: JobPlan, layout: Layout, loaded: LoadedModel, cores: list[int]
) -> Iterator[Home]:
    if layout.worker:
        num_bytes = kv_bytes(loaded.spec.layers, plan.requests, plan.prompt + plan.new, "bfloat16")
        far = cores[1:] or cores
        if layout.link_s:
            address, _ = stack.enter_context(far_worker_on(far, num_bytes, layout.link_s))
        else:
            address = stack.enter_context(worker_on(far, num_bytes))
        yield stack.enter_context(open_home(address, loaded, loaded.spec.dtype))


def _local_home(plan: JobPlan, loaded: LoadedModel) -> LocalHome:
    layers, dtype = loaded.spec.layers, loaded.spec.dtype
    num_bytes = kv_bytes(layers, plan.capped, plan.prompt + plan.new, dtype)
    threads = torch.get_num_threads()
    return LocalHome(0, KVCache(layers, num_bytes, dtype, threads=threads, on_torch_threads=True))


def _requests(plan: JobPlan, count: int) -> Iterator[Request]:
    """Prompts that share nothing, answers of one length."""
    for number in range(count):
        prompt = tuple((7 * number + 11 * i + number * i) % 1000 + 5 for i in range(plan.prompt))
        params = choice_rules(plan.sampled, max_tokens=plan.new, ignore_eos=True)
        yield Request(number, prompt, params, number, plan.new)


def _answer(running: Run, layout: Layout, requests: list[Request], base: JobRow | None) -> JobRow:
    answered = list(running.engine.generate(requests))
    stats = running.stats()
    speed = sum(len(sequence.output) for sequence in answered) / stats.seconds
    return JobRow(
        layout.name,
        len(answered),
        round(speed, 1),
        round(speed / base.tokens_per_s, 2) if base else 1.0,
        round(stats.tier1_busy, 3),
        round(max(stats.tier2_busy, default=0.0), 3),
        round(sum(sequence.home != 0 for sequence in answered) / len(answered), 3),
    )
