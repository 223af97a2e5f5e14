"""Layouts of one model on machines of one or two kinds, and the best of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from glinthawk.core.plan import Plan
from glinthawk.core.shape import ModelShape
from glinthawk.planner.catalogue import Machine
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.estimate import Estimate, Estimator
from glinthawk.planner.roofline import roofline_slices
from glinthawk.planner.workload import Workload

__all__ = ["Layout", "Rig", "fuse"]


def fuse(machine: Machine, count: int) -> Machine:
    """Tensor parallelism that costs nothing: ``count`` machines as one."""
    if count == 1:
        return machine
    price = machine.dollars_per_hour
    return replace(
        machine,
        name=f"{count} x {machine.name}",
        memory=machine.memory * count,
        bandwidth=machine.bandwidth * count,
        flops=machine.flops * count,
        network=machine.network * count,
        dollars_per_hour=None if price is None else price * count,
    )


@dataclass(frozen=True)
class Layout:
    """A plan with what it makes."""

    tier1: Machine
    tier2: Machine | None
    plan: Plan
    estimate: Estimate

    @property
    def dollars_per_hour(self) -> float:
        workers = self.plan.workers_per_slice
        each = (self.tier1.dollars_per_hour or 0) + (
            workers * (self.tier2.dollars_per_hour or 0) if self.tier2 else 0
        )
        return self.plan.slices * each

    @property
    def dollars_per_million(self) -> float:
        """Generated tokens."""
        rate = self.estimate.tokens_per_s
        return self.dollars_per_hour / 3600 / rate * 1e6 if rate else float("inf")

    def __str__(self) -> str:
        text = f"{self.plan.slices} x {self.tier1.name}"
        if self.tier2 and self.plan.workers_per_slice:
            text += f" + {self.plan.slices * self.plan.workers_per_slice} x {self.tier2.name}"
        return text


class Rig:
    """A model sliced over so many Tier-1 machines, with workers of one kind."""

    def __init__(
        self,
        shape: ModelShape,
        work: Workload,
        tier1: Machine,
        tier2: Machine | None = None,
        *,
        slices: int = 1,
        latency_s: float = 1e-4,
        kv_dtype: str = "auto",
        batch_tokens: int = 8192,
    ) -> None:
        kv_dtype = shape.dtype if kv_dtype == "auto" else kv_dtype
        link = LinkCost(latency_s, tier1.network)
        self.costs = roofline_slices(shape, slices, tier1, tier2, link, kv_dtype)
        weights = max(one.shape.weight_bytes for one in self.costs)
        self.tier1, self.tier2 = tier1, tier2
        #: Bytes beside the weights; below 0 they do not fit.
        self.spare = tier1.memory - weights
        self._estimator = Estimator(self.costs, work)
        self._plan = Plan(
            model=shape.name,
            kv_dtype=kv_dtype,
            slices=slices,
            batch_size=1,
            batch_tokens=batch_tokens,
            tier1_kv=max(0, self.spare),
            worker_kv=tier2.memory if tier2 else 0,
        )

    def rate(
        self, batch: int, in_flight: int, workers: int = 0, tier1_kv: int | None = None
    ) -> Layout:
        """One layout; ``tier1_kv`` None is all that is left beside the weights."""
        plan = replace(
            self._plan, batch_size=batch, batches_in_flight=in_flight, workers_per_slice=workers
        )
        if tier1_kv is not None:
            plan = replace(plan, tier1_kv=tier1_kv)
        return Layout(self.tier1, self.tier2, plan, self._estimator.estimate(plan))

    def best(
        self,
        workers: int = 0,
        in_flight: Iterable[int] = (),
        tier1_kv: int | None = None,
        finer: float = 1.125,
    ) -> Layout:
        """The fastest over batches, each ``finer`` times the next, and how many are in flight."""
        fits = self.rate(1, 1, workers, tier1_kv).estimate.kv_sequences
        most = max(1, fits)
        tried = [
            self.rate(batch, count, workers, tier1_kv)
            for count in in_flight or self._usual(workers)
            for batch in _sizes(ceil(most / count), finer)
        ]
        return max(tried, key=lambda one: one.estimate.tokens_per_s)

    def _usual(self, workers: int) -> list[int]:
        slices = self._plan.slices
        times = (1, 1.5, 2, 3, 4, 6, 8, 12, 16) if workers else (0.9, 1, 1.25, 1.5, 2)
        return sorted({ceil(slices * factor) for factor in times})


def _sizes(most: int, finer: float) -> Iterator[int]:
    size = float(most)
    while size > 1:
        yield ceil(size)
        size /= finer
    yield 1
