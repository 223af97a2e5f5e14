"""A whole job on one tier and on two: prompts, decoding, ragged ends, scheduler and all.

Tier 1 has one core and KV memory for few sequences, as in ``bench tiers``. Beside one tier alone
(on the same core, and on both) stand two tiers, and hybrid ones that keep KV on Tier 1 as well; in
the job of even lengths once more with a worker at the end of so long a link that it should be left
alone.
"""

import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import torch

from glinthawk import _native
from glinthawk.bench.decoding import choice_rules
from glinthawk.bench.job_kinds import JOB_KINDS, JobKind, KindName, Layout, Lengths, make_prompt
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

__all__ = ["JobRow", "run"]

_Write = Callable[[str], None]
_GIB = 1 << 30
#: Tokens of an answer in a quick look.
_QUICK_NEW = 16


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
    write: _Write,
    *,
    quick: bool = False,
    lengths: KindName = "even",
    requests: int | None = None,
    sampled: bool = False,
) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    kind = _choose(lengths, quick, requests)
    cores = sorted(os.sched_getaffinity(0))[:2]
    torch.manual_seed(0)
    torch.set_num_threads(len(cores))
    loaded = load_shape(kind.model)
    write(_describe(kind, loaded, cores))
    results: list[JobRow] = []
    for layout in kind.layouts:
        asked = list(_requests(kind, layout, sampled))
        results.append(_measure(kind, layout, loaded, cores, asked, results))
        write("  " + "  ".join(f"{name} {value}" for name, value in asdict(results[-1]).items()))
    summary = {"model": kind.model, "lengths": lengths, "sampled": sampled}
    write(json.dumps({**summary, "rows": [asdict(row) for row in results]}))


def _choose(lengths: KindName, quick: bool, requests: int | None) -> JobKind:
    kind = JOB_KINDS[lengths]
    if quick:
        kind = replace(kind, model="M", requests=24, lengths=_shortened(kind.lengths), capped=2)
    return kind if requests is None else replace(kind, requests=requests)


def _shortened(lengths: Lengths) -> Lengths:
    return lambda number: (lengths(number)[0], _QUICK_NEW)


def _describe(kind: JobKind, loaded: LoadedModel, cores: list[int]) -> str:
    with on_cores(cores[:1]):
        rows = min(256, kind.requests)
        dense = rows / DensePass(loaded.model, loaded.spec.layers, rows).seconds()
    reads = _native.Roof(_GIB, 1).measure()
    prompts, answers = zip(*map(kind.lengths, range(kind.requests)), strict=True)
    return (
        f"{kind.requests} requests of {statistics.mean(prompts):.0f} + "
        f"{statistics.mean(answers):.0f} tokens, KV memory on Tier 1 for {kind.capped} of "
        f"{kind.longest}; roofs: Tier 1 {dense:.1f} tokens/s in dense steps of {rows} rows, "
        f"the worker's reads {reads / 1e9:.1f} GB/s"
    )


def _measure(
    kind: JobKind,
    layout: Layout,
    loaded: LoadedModel,
    cores: list[int],
    requests: list[Request],
    before: list[JobRow],
) -> JobRow:
    with ExitStack() as stack:
        own = cores[: layout.cores]
        homes = list(_homes(stack, kind, layout, loaded, cores))
        stack.enter_context(on_cores(own))
        # Tier 1's own memory is made when its threads are known.
        if layout.tier1_kv:
            homes.insert(0, _local_home(kind, loaded))
        config = EngineConfig(model=kind.model)
        running = run_on(config, join_homes(config, loaded, homes))
        return _answer(running, layout, requests, before)


def _homes(
    stack: ExitStack, kind: JobKind, layout: Layout, loaded: LoadedModel, cores: list[int]
) -> Iterator[Home]:
    if layout.worker:
        num_bytes = kv_bytes(loaded.spec.layers, kind.requests, kind.longest, "bfloat16")
        far = cores[1:] or cores
        if layout.link_s:
            address, _ = stack.enter_context(far_worker_on(far, num_bytes, layout.link_s))
        else:
            address = stack.enter_context(worker_on(far, num_bytes))
        yield stack.enter_context(open_home(address, loaded, loaded.spec.dtype))


def _local_home(kind: JobKind, loaded: LoadedModel) -> LocalHome:
    layers, dtype = loaded.spec.layers, loaded.spec.dtype
    num_bytes = kv_bytes(layers, kind.capped, kind.longest, dtype)
    threads = torch.get_num_threads()
    return LocalHome(0, KVCache(layers, num_bytes, dtype, threads=threads, on_torch_threads=True))


def _requests(kind: JobKind, layout: Layout, sampled: bool) -> Iterator[Request]:
    """Prompts that share nothing."""
    for number in range(max(2 * kind.capped, round(kind.requests * layout.share))):
        length, new = kind.lengths(number)
        params = choice_rules(sampled, max_tokens=new, ignore_eos=True)
        yield Request(number, make_prompt(number, length), params, number, new)


def _answer(running: Run, layout: Layout, requests: list[Request], before: list[JobRow]) -> JobRow:
    answered = list(running.engine.generate(requests))
    stats = running.stats()
    speed = sum(len(sequence.output) for sequence in answered) / stats.seconds
    return JobRow(
        layout.name,
        len(answered),
        round(speed, 1),
        round(speed / before[0].tokens_per_s, 2) if before else 1.0,
        round(stats.tier1_busy, 3),
        round(max(stats.tier2_busy, default=0.0), 3),
        round(sum(sequence.home != 0 for sequence in answered) / len(answered), 3),
    )
