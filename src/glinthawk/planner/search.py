"""The best layouts of a model for a workload: all are estimated, the best few simulated."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, inf
from typing import Any, Literal

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.planner.estimate import Estimate, Estimator
from glinthawk.planner.machine_layouts import Rig
from glinthawk.planner.plan_text import xcache_note
from glinthawk.planner.steady import Steady, simulate_steady
from glinthawk.planner.workload import Workload

__all__ = ["Candidate", "Found", "Rank", "Search"]

#: By dollars for a million generated tokens, or by tokens a second.
Rank = Literal["cost", "speed"]

#: Batches in flight that are tried, as multiples of the slices; one tier has nothing to hide but
#: what its slices' steps differ by.
_FAR_FACTORS = (1, 1.5, 2, 3, 4, 6, 9, 14)
_NEAR_FACTORS = (0.9, 1, 1.25, 1.5, 2)
#: A batch size over the next smaller one that is tried.
_FINER = 1.25
#: Of equally fast plans, within this share, the one with the fewest sequences under way is best: it
#: starts and ends sooner.
_AS_FAST = 0.98
#: Tokens that are simulated for all candidates together, about; each takes some seconds at most.
_TOKENS = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan and what it makes."""

    plan: Plan
    rig: Rig = field(repr=False)
    estimate: Estimate
    #: None where a price is not known.
    dollars_per_hour: float | None
    #: None where it was not simulated.
    steady: Steady | None = None

    @property
    def tokens_per_s(self) -> float:
        """Generated: simulated, or estimated where it was not."""
        return self.steady.tokens_per_s if self.steady else self.estimate.tokens_per_s

    @property
    def dollars_per_million(self) -> float | None:
        """Generated tokens."""
        if self.dollars_per_hour is None:
            return None
        rate = self.tokens_per_s
        return self.dollars_per_hour / 3600 / rate * 1e6 if rate else inf

    @property
    def is_one_tier(self) -> bool:
        return self.plan.workers_per_slice == 0

    @property
    def notes(self) -> list[str]:
        """On layer inputs, and what was asked of a profile beyond what it measured."""
        notes = [note for one in self.rig.costs for note in getattr(one, "notes", ())]
        if self.plan.worker_storage:
            notes.insert(0, xcache_note(self.plan, self.rig.shape, self._is_host_known))
        return list(dict.fromkeys(notes))

    @property
    def _is_host_known(self) -> bool:
        return self.rig.tier1 is None or self.rig.host_memory > 0

    def key(self, rank: Rank) -> tuple[float, float]:
        """Smaller is better; the other figure decides between equals."""
        dollars = inf if self.dollars_per_million is None else self.dollars_per_million
        speed = -self.tokens_per_s
        return (dollars, speed) if rank == "cost" else (speed, dollars)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    #: The best of different layouts, best first; those that were not simulated come last.
    best: list[Candidate]
    #: Of every layout its best plan, in the order of the estimate.
    layouts: list[Candidate]
    #: Plans that were estimated, and reasons for which layouts were dropped.
    num_plans: int
    dropped: Counter[str]

    def first(self, *, is_one_tier: bool) -> Candidate | None:
        """The best one of one tier or of two."""
        return next((one for one in self.best if one.is_one_tier == is_one_tier), None)


class Search:
    """Over the plans of one model and workload. ``dropped`` may have counts already."""

    def __init__(
        self,
        model: str,
        workload: Workload,
        rank: Rank = "cost",
        *,
        batch_tokens: int | None = None,
        dropped: Counter[str] | None = None,
    ) -> None:
        self._model, self._workload, self._rank = model, workload, rank
        self._limits: dict[str, Any] = (
            {} if batch_tokens is None else {"batch_tokens": batch_tokens}
        )
        self._dropped = Counter() if dropped is None else dropped
        self._longest = max(map(sum, workload.lengths))
        self._num_plans = 0

    def run(self, rigs: Iterable[Rig], top: int = 5) -> Found:
        """Raises UsageError with the reasons if there is no plan at all."""
        layouts = self._layouts(rigs)
        if not layouts:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in self._dropped.most_common(4))
            raise UsageError(
                f"no plan is feasible: {reasons or 'no machines'}. Offer more or larger machines "
                "(--tier1-count, --tier2-count), or a smaller model or workload"
            )
        chosen = self._choose(layouts, top)
        best = [self._simulate(one, _TOKENS // len(chosen)) for one in chosen]
        best.sort(key=lambda one: (one.steady is None, one.key(self._rank)))
        return Found(best=best, layouts=layouts, num_plans=self._num_plans, dropped=self._dropped)

    def rate(self, rig: Rig, workers: int) -> Iterator[Candidate]:
        """All plans of one layout."""
        estimator = Estimator(rig.costs, self._workload)
        for plan in self._plans(rig, workers):
            if not self._has_room(rig, plan):
                continue
            fits = estimator.estimate(plan).kv_sequences
            for count in _counts(rig.slices, workers):
                for size in _sizes(ceil(fits / count)):
                    yield from self._candidates(rig, estimator, plan, size, count)

    def _layouts(self, rigs: Iterable[Rig]) -> list[Candidate]:
        found: dict[tuple[object, ...], Candidate] = {}
        for rig in rigs:
            for workers in rig.workers:
                plans = [one for one in self.rate(rig, workers) if one.estimate.tokens_per_s]
                self._num_plans += len(plans)
                if not plans:
                    self._dropped["no KV memory for the longest sequence"] += 1
                    continue
                best = _leanest(plans)
                plan = best.plan
                machines = plan.tier1_machine, plan.tier2_machine
                key = (*machines, plan.slices, workers, plan.kv_dtype)
                if key not in found or best.key(self._rank) < found[key].key(self._rank):
                    found[key] = best
        return sorted(found.values(), key=lambda one: one.key(self._rank))

    def _choose(self, layouts: list[Candidate], top: int) -> list[Candidate]:
        """The first ones, and the first of each number of tiers, which come first."""
        numbers = (True, False)
        found = [[one for one in layouts if one.is_one_tier == is_one] for is_one in numbers]
        first = [ones[0] for ones in found if ones]
        return first + [one for one in layouts[:top] if all(one is not other for other in first)]

    def _simulate(self, one: Candidate, tokens: int) -> Candidate:
        living = one.estimate.living
        rig = one.rig
        steady = simulate_steady(
            one.plan, rig.shape, rig.costs, self._workload, living, tokens=tokens
        )
        return replace(one, steady=steady)

    def _plans(self, rig: Rig, workers: int) -> Iterator[Plan]:
        """With Tier 1's own memory and without, with drives and without."""
        shares = (rig.tier1_kv, 0) if workers and rig.tier2 else (rig.tier1_kv,)
        drives = (0, rig.worker_storage) if workers else (0,)
        for tier1_kv, storage in product(dict.fromkeys(shares), dict.fromkeys(drives)):
            yield self._plan(rig, workers, tier1_kv, storage)

    def _plan(self, rig: Rig, workers: int, tier1_kv: int, storage: int) -> Plan:
        return Plan(
            model=self._model,
            kv_dtype=rig.kv_dtype,
            slices=rig.slices,
            workers_per_slice=workers,
            batch_size=1,
            tier1_kv=tier1_kv,
            worker_kv=rig.worker_kv if workers else 0,
            worker_storage=storage,
            tier1_machine=rig.tier1.name if rig.tier1 else None,
            tier2_machine=rig.tier2.name if rig.tier2 and workers else None,
            **self._limits,
        )

    def _has_room(self, rig: Rig, plan: Plan) -> bool:
        """Whether some home holds the longest sequence at its end."""
        return max(plan.pages(rig.shape)) * PAGE_TOKENS >= self._longest

    def _candidates(
        self, rig: Rig, estimator: Estimator, plan: Plan, size: int, count: int
    ) -> Iterator[Candidate]:
        """As it is; and with the share of layer inputs that balances drives and Tier 1, but not for
        nodes of a cluster, which keep none."""
        plan = replace(plan, batch_size=size, batches_in_flight=count)
        yield self._candidate(rig, estimator, plan)
        if plan.worker_storage and rig.host_memory and rig.slices == 1:
            share = estimator.balance(plan, rig.host_memory)
            if share:
                yield self._candidate(rig, estimator, replace(plan, xcache=share))

    def _candidate(self, rig: Rig, estimator: Estimator, plan: Plan) -> Candidate:
        return Candidate(
            plan=plan,
            rig=rig,
            estimate=estimator.estimate(plan),
            dollars_per_hour=rig.dollars_per_hour(plan.workers_per_slice),
        )


def _leanest(plans: Sequence[Candidate]) -> Candidate:
    """Of the fastest ones, that with the fewest sequences under way."""
    fastest = max(one.estimate.tokens_per_s for one in plans)
    fast = [one for one in plans if one.estimate.tokens_per_s >= _AS_FAST * fastest]
    return min(fast, key=lambda one: (one.estimate.living, one.plan.batches_in_flight))


def _counts(slices: int, workers: int) -> list[int]:
    factors = _FAR_FACTORS if workers else _NEAR_FACTORS
    return sorted({ceil(slices * factor) for factor in factors})


def _sizes(most: int) -> Iterator[int]:
    """From the most that memory holds down to 1."""
    size = float(most)
    while size > 1:
        yield ceil(size)
        size /= _FINER
    yield 1
