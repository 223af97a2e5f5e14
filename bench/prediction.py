"""The simulator against this machine: jobs predicted from a profile, then run.

The profile is measured first. Each job then runs through the real engine with Tier 1 on one core
and its workers on the other; the same requests run through the simulator with the same limits.
"""

import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from glinthawk.bench.layouts import far_worker_on, kv_bytes, on_cores, open_home, worker_on
from glinthawk.bench.profiling import Bench, Sizes, measure_link, measure_profile
from glinthawk.bench.random_models import load_shape
from glinthawk.core.config import EngineConfig
from glinthawk.core.plan import Plan
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.shape import LayerShape, ModelShape
from glinthawk.engine.node_opening import join_homes
from glinthawk.engine.run import run_on
from glinthawk.engine.tuning import choose_prompt_attention
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.measured import Measured
from glinthawk.planner.profile import Profile
from glinthawk.planner.simulator import Simulator
from glinthawk.tier1.kv.home import Home, LocalHome
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.address import Address

__all__ = ["CASES", "PredictedCase", "PredictionRow", "run"]

_Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PredictedCase:
    """A job of requests of ``context`` tokens at their end, of which ``new`` are generated; there
    are ``turns`` times as many as are under way together. Without workers Tier 1 keeps all KV."""

    batch: int
    context: int
    workers: int = 0
    in_flight: int = 1
    kv_dtype: str = "bfloat16"
    #: Milliseconds each way.
    latency: int = 0
    new: int = 64
    turns: float = 1.5

    @property
    def name(self) -> str:
        place = f"{self.workers} workers x {self.in_flight} batches" if self.workers else "one tier"
        link = f", {self.latency} ms" if self.latency else ""
        return f"{place}, batch {self.batch}, context {self.context}, {self.kv_dtype}{link}"

    @property
    def num_requests(self) -> int:
        return round(self.turns * self.batch * self.in_flight)

    def requests(self) -> Iterator[Request]:
        """Prompts that share nothing, answers of one length."""
        params = SamplingParams(temperature=0, max_tokens=self.new, ignore_eos=True)
        for number in range(self.num_requests):
            prompt = tuple(5 + (7 * number + 11 * i) % 1000 for i in range(self.context - self.new))
            yield Request(number, (5 + number, *prompt[1:]), params, 0, self.new)


CASES = (
    PredictedCase(4, 256, turns=6),
    PredictedCase(64, 256),
    PredictedCase(256, 256, kv_dtype="int8", new=32),
    PredictedCase(16, 1024),
    PredictedCase(8, 4096),
    PredictedCase(4, 256, 1, 2, turns=6),
    PredictedCase(64, 256, 1, 2),
    PredictedCase(256, 256, 1, 2, new=32),
    PredictedCase(32, 1024, 1, 2, "int8"),
    PredictedCase(8, 4096, 1, 2),
    PredictedCase(8, 4096, 1, 2, "int8"),
    PredictedCase(64, 256, 1, 2, latency=10),
    PredictedCase(32, 256, 1, 6, "int8", latency=10),
    PredictedCase(16, 1024, 1, 4, latency=10),
    PredictedCase(64, 256, 2, 2),
    PredictedCase(16, 1024, 2, 2, "int8"),
)
_QUICK = (PredictedCase(4, 256, new=16), PredictedCase(16, 256, 1, 2, new=16))


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """Generated tokens a second."""

    name: str
    predicted: float
    measured: float
    #: Of what was measured.
    error: float


def run(write: _Write, *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    loaded = load_shape("S")
    bench = Bench(loaded, cores[:1], 1, partial(_worker, cores))
    sizes = Sizes.quick() if quick else Sizes()
    profile = measure_profile(bench, ("bfloat16", "int8"), write, sizes)
    cases = _QUICK if quick else CASES
    links = {
        ms: measure_link(replace(bench, open_worker=partial(_worker, cores, ms=ms)))
        for ms in {case.latency for case in cases}
        if ms
    }
    rows = [_compare(case, profile, links, loaded, cores, write) for case in cases]
    errors = sorted(abs(row.error) for row in rows)
    write(f"errors: median {statistics.median(errors):.1%}, worst {errors[-1]:.1%}")
    summary = {"median_error": statistics.median(errors), "worst_error": errors[-1]}
    write(json.dumps({"model": "S", **summary, "rows": [asdict(row) for row in rows]}))


@contextmanager
def _worker(cores: list[int], num_bytes: int, ms: int = 0) -> Iterator[Address]:
    """On the last of ``cores``, ``ms`` away."""
    far = cores[1:] or cores
    if ms:
        with far_worker_on(far, num_bytes, 1e-3 * ms) as (address, _):
            yield address
    else:
        with worker_on(far, num_bytes) as address:
            yield address


def _compare(
    case: PredictedCase,
    profile: Profile,
    links: Mapping[int, LinkCost],
    loaded: LoadedModel,
    cores: list[int],
    write: _Write,
) -> PredictionRow:
    predicted = _predict(case, profile, links.get(case.latency), loaded)
    measured = _measure(case, loaded, cores)
    error = predicted / measured - 1
    row = PredictionRow(case.name, round(predicted, 1), round(measured, 1), round(error, 3))
    write(f"{row.name}: {row.predicted} predicted, {row.measured} measured ({error:+.1%})")
    return row


def _num_bytes(case: PredictedCase, loaded: LoadedModel) -> int:
    """Of KV, for all that is under way at each place."""
    sequences = case.batch * case.in_flight // max(1, case.workers) + 1
    return kv_bytes(loaded.spec.layers, sequences, case.context, case.kv_dtype)


def _predict(
    case: PredictedCase, profile: Profile, link: LinkCost | None, loaded: LoadedModel
) -> float:
    shape = _shape(loaded)
    costs = Measured(profile, shape, len(shape.layers), case.kv_dtype, link)
    num_bytes = _num_bytes(case, loaded)
    plan = Plan(
        model=profile.model,
        kv_dtype=case.kv_dtype,
        workers_per_slice=case.workers,
        batch_size=case.batch,
        batches_in_flight=case.in_flight,
        tier1_kv=0 if case.workers else num_bytes,
        worker_kv=num_bytes if case.workers else 0,
    )
    pages = plan.pages(shape)
    machines = [0] * case.workers  # they share a core
    simulator = Simulator(plan, [costs], pages, layers=len(shape.layers), machines=machines)
    return simulator.run(case.requests()).tokens_per_s


def _shape(loaded: LoadedModel) -> ModelShape:
    """With a profile only the layers' attention counts."""
    spec = loaded.spec
    layers = tuple(LayerShape(layer, 0, 0) for layer in spec.layers)
    return ModelShape(
        spec.name, loaded.hidden_size, spec.max_model_len, spec.dtype, layers, 0, head_params=1
    )


def _measure(case: PredictedCase, loaded: LoadedModel, cores: list[int]) -> float:
    with ExitStack() as stack:
        homes = list(_homes(stack, case, loaded, cores))
        stack.enter_context(on_cores(cores[:1]))
        config = EngineConfig(
            model=loaded.spec.name,
            tier1_kv=1,
            batch_size=case.batch,
            batches_in_flight=case.in_flight,
        )
        attention = choose_prompt_attention(loaded)
        running = run_on(config, join_homes(config, loaded, homes, attention=attention))
        answered = list(running.engine.generate(case.requests()))
        return sum(len(one.output) for one in answered) / running.stats().seconds


def _homes(
    stack: ExitStack, case: PredictedCase, loaded: LoadedModel, cores: list[int]
) -> Iterator[Home]:
    num_bytes = _num_bytes(case, loaded)
    if not case.workers:
        layers = loaded.spec.layers
        yield LocalHome(
            0, KVCache(layers, num_bytes, case.kv_dtype, threads=1, on_torch_threads=True)
        )
    for number in range(1, case.workers + 1):
        address = stack.enter_context(_worker(cores, num_bytes, case.latency))
        yield stack.enter_context(open_home(address, loaded, case.kv_dtype, number))
