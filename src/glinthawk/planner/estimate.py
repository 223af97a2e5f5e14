"""What a plan makes of a workload in steady state, without simulating it.

Every one of k batches takes a step in each round. A round lasts as long as the busiest of Tier 1's
nodes, workers and links is busy for all k batches, or as one batch's own way through all slices if
that is longer. All is taken at its average, and overlaps as well as it can: lengths that differ
from batch to batch make real runs slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Literal

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.plan import Plan, largest_page_bytes
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.step import AverageStep, SlicePart, Times
from glinthawk.planner.work import keep
from glinthawk.planner.workload import Workload

__all__ = ["Binding", "Estimate", "Estimator", "estimate"]

Binding = Literal[
    "arithmetic",  # Tier 1 multiplies
    "weights",  # Tier 1 reads weights; a larger batch would share the reading
    "KV memory",  # the same, but no larger batch fits
    "attention bandwidth",  # keys and values are read, on workers or on Tier 1
    "storage",  # pages of KV are read from drives, or written to them
    "link",  # the bytes of the busiest link
    "latency",  # a batch's own way; more batches in flight would fill it
]

#: Of the context, layer inputs stand for less than all.
_MOST_INPUTS = 0.999


@dataclass(frozen=True, slots=True)
class Estimate:
    """Shares are of a round's time, for the busiest of its kind."""

    #: Generated.
    tokens_per_s: float
    binds: Binding
    #: That the homes hold, near and far together.
    kv_sequences: int
    #: That are under way at once, and those of them whose KV is at workers.
    living: float
    far: float
    #: Sequences that take one step together.
    batch: float
    tier1_busy: float
    worker_busy: float
    drives_busy: float
    link_busy: float
    #: Prompts' part of Tier 1's time.
    prefill_share: float


@dataclass(frozen=True, slots=True)
class _Round:
    """What goes round: of ``fits`` sequences so many are under way, in so many batches, each of
    which takes ``step``."""

    fits: int
    living: int
    batches: int
    #: Of sequences, those whose KV is at workers.
    far_share: float
    step: AverageStep


class Estimator:
    """Estimates many plans that have the same slices on the same machines."""

    def __init__(self, costs: Sequence[SliceCosts], workload: Workload) -> None:
        self._workload = workload
        alike: dict[tuple[int, bool, bool], tuple[SlicePart, int]] = {}
        for number, one in enumerate(costs):
            part = SlicePart(one, workload, (number, len(costs)))
            key = (id(one), part.is_first, part.is_last)
            first, times = alike.get(key, (part, 0))
            alike[key] = first, times + 1
        self._parts = list(alike.values())
        slices = (part.costs.shape for part, _ in self._parts)
        self._page_bytes = largest_page_bytes(slices, costs[0].kv_dtype)
        #: Tokens of a sequence at all stages of its life, in pages that are not all full.
        self._held = workload.mean_held + PAGE_TOKENS / 2
        # The sampled token goes back to the first slice.
        self._return_s = costs[0].link.latency_s if len(costs) > 1 else 0.0

    def estimate(self, plan: Plan) -> Estimate:
        round_ = self._round(plan)
        if round_ is None:
            return Estimate(0.0, "KV memory", 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        batches, step, fits = round_.batches, round_.step, round_.fits
        times = [
            (part, part.run(step, plan.workers_per_slice), count) for part, count in self._parts
        ]
        own_way = self._return_s + sum(one.path * count for _, one, count in times)
        part, slowest, _ = max(times, key=lambda one: one[1].tier1)
        busy = {
            "tier1": batches * slowest.tier1,
            "worker": batches * max(one.worker for _, one, _ in times),
            "storage": batches * max(one.drives for _, one, _ in times),
            "link": batches * max(one.link for _, one, _ in times),
        }
        # Equal ones are told apart only by rounding: the first to reach the longest names it.
        round_s = max(*busy.values(), own_way)
        resource = next((name for name, one in busy.items() if one >= round_s * 0.999), "latency")
        held = self._workload.mean_output * step.prompts_a_step * batches
        return Estimate(
            tokens_per_s=held / round_s,
            binds=_name(resource, part, slowest, step, is_full=round_.living == fits),
            kv_sequences=fits,
            living=held,
            far=held * round_.far_share,
            batch=held / batches,
            tier1_busy=busy["tier1"] / round_s,
            worker_busy=busy["worker"] / round_s,
            drives_busy=busy["storage"] / round_s,
            link_busy=busy["link"] / round_s,
            prefill_share=slowest.prefill / slowest.tier1 if slowest.tier1 else 0.0,
        )

    def balance(self, plan: Plan, host_memory: float) -> float:
        """The best ``xcache`` for ``plan``: both tiers are busy for equally long, and layer inputs
        fit into the ``host_memory`` of each Tier-1 node; in whole thousandths, 0 where layer inputs
        are no smaller than keys and values, or Tier 1 is the busier one anyway."""
        round_ = self._round(replace(plan, xcache=0.0))
        shape = self._parts[0][0].costs.shape
        if (
            round_ is None
            or not round_.step.keeping.read_share
            or shape.inputs_over_kv(plan.kv_dtype) >= 1
        ):
            return 0.0
        workers = plan.workers_per_slice
        best = max(part.balance(round_.step, workers) for part, _ in self._parts)
        far = round_.living * round_.far_share * self._held
        inputs = max(part.costs.shape.input_bytes for part, _ in self._parts)
        return floor(1000 * min(best, host_memory / (far * inputs), _MOST_INPUTS)) / 1000

    def _round(self, plan: Plan) -> "_Round | None":
        """None: nothing fits."""
        near = self._capacity(plan.tier1_kv)
        fits = near + plan.workers_per_slice * self._worker_capacity(plan)
        living = min(plan.batch_size * plan.batches_in_flight, fits)
        if not living:
            return None
        batches, far_share = min(plan.batches_in_flight, living), max(0, living - near) / living
        step = self._step(living / batches, far_share, plan.batch_tokens)
        return _Round(fits, living, batches, far_share, self._kept(plan, batches, step))

    def _capacity(self, kv_bytes: int) -> int:
        """Sequences of one home, at all stages of their lives: n of them hold at most
        n (mean + half a page) + half an answer tokens at any one time.

        >>> # prompts of 100, answers of 100, 450 tokens: (450 - 50) / (150 + 16) = 2
        """
        tokens = kv_bytes // self._page_bytes * PAGE_TOKENS
        if tokens < self._workload.mean_length:
            return 0
        return max(1, int((tokens - self._workload.mean_output / 2) / self._held))

    def _worker_capacity(self, plan: Plan) -> int:
        """Sequences of a worker: what its pages hold, and no more than it has tails for."""
        sequences = self._capacity(plan.worker_storage or plan.worker_kv)
        tails = plan.most_tails(self._page_bytes)
        return sequences if tails is None else min(sequences, tails)

    def _kept(self, plan: Plan, batches: int, step: AverageStep) -> AverageStep:
        """``step`` with what drives and layer inputs have of the KV at workers."""
        living = batches * self._workload.mean_output * step.prompts_a_step * step.far_share
        pages = living * self._held / PAGE_TOKENS / max(1, plan.workers_per_slice)
        return replace(step, keeping=keep(plan, self._page_bytes, pages))

    def _step(self, living: float, far_share: float, batch_tokens: int) -> AverageStep:
        """A sequence takes one step as a prompt and one for each further token. A step has at most
        ``batch_tokens`` unless it has but one prompt."""
        output = self._workload.mean_output
        room = batch_tokens / (self._workload.mean_input + output - 1)
        prompts = min(living / output, max(1.0, room))
        rows = prompts * (output - 1)
        return AverageStep(rows, rows * far_share, min(1.0, prompts), max(1.0, prompts))


def estimate(plan: Plan, costs: Sequence[SliceCosts], workload: Workload) -> Estimate:
    """Of one plan; ``costs`` are of its slices in order."""
    return Estimator(costs, workload).estimate(plan)


def _name(
    resource: str, part: SlicePart, times: Times, step: AverageStep, *, is_full: bool
) -> Binding:
    if resource == "latency":
        return "latency"
    if resource == "link":
        return "link"
    if resource == "storage":
        return "storage"
    if resource == "worker" or times.near > times.plain + times.prefill:
        return "attention bandwidth"
    multiplied = times.prefill + min(times.plain, part.doubled_s(step))
    if 2 * multiplied >= times.plain + times.prefill:
        return "arithmetic"
    return "KV memory" if is_full else "weights"
