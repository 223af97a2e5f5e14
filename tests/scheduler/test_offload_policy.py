"""KV on both tiers, the real scheduler on a virtual clock: workers never make a job slower."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.core.batch import Batch
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import Finish, HomeJoined, Paced, Step, Stepped, Submitted
from glinthawk.scheduler.scheduler import Scheduler
from glinthawk.scheduler.step_cost import TIER1, RowLoad, StepCost

LAYERS = 4
PAGE = 16


@dataclass(eq=False)
class Flying:
    """A batch on its way through the layers."""

    batch: Batch
    layer: int = 0
    ready_s: float = 0.0


@dataclass
class Machine:
    """Tier 1 and workers that do one thing after the other, each taking the time it takes."""

    step_cost: StepCost
    scheduler: Scheduler
    clock_s: float = 0.0
    flying: list[Flying] = field(default_factory=list)
    worker_free_s: dict[int, float] = field(default_factory=dict)
    worker_busy_s: Counter[int] = field(default_factory=Counter)
    num_tokens: int = 0
    finished: list[int] = field(default_factory=list)

    def run(self) -> float:
        """Seconds until everything is answered."""
        self.carry_out(self.scheduler.schedule())
        while self.flying:
            self.advance(min(self.flying, key=self.order))
        return self.clock_s

    def order(self, flying: Flying) -> tuple[float, int]:
        """What can run first; of those that can run now, the deepest."""
        return max(flying.ready_s, self.clock_s), -flying.layer

    def advance(self, flying: Flying) -> None:
        """Tier 1 runs a layer of a batch, its own attention included, and sends the rest away."""
        self.clock_s = max(self.clock_s, flying.ready_s)
        if flying.layer == LAYERS:
            self.finish(flying)
            return
        flying.layer += 1
        near = self.kv_tokens(flying.batch, TIER1) * self.step_cost.attend_s.get(TIER1, 0.0)
        self.clock_s += (self.step_cost.dense_s(flying.batch.num_tokens) + near) / LAYERS
        flying.ready_s = max(
            (self.attend_far(flying.batch, home) for home in homes_of(flying.batch)),
            default=self.clock_s,
        )

    def attend_far(self, batch: Batch, home: int) -> float:
        """When the answer of worker ``home`` is back."""
        seconds = self.kv_tokens(batch, home) * self.step_cost.attend_s[home] / LAYERS
        way_s = self.step_cost.link_s[home] / LAYERS / 2
        begun_s = max(self.clock_s + way_s, self.worker_free_s.get(home, 0.0))
        self.worker_free_s[home] = begun_s + seconds
        self.worker_busy_s[home] += seconds
        return begun_s + seconds + way_s

    def kv_tokens(self, batch: Batch, home: int) -> int:
        return sum(s.start + s.length for s in batch.extends if s.home == home)

    def finish(self, flying: Flying) -> None:
        self.flying.remove(flying)
        batch = flying.batch
        self.num_tokens += len(batch.spans)
        self.carry_out(self.scheduler.handle(Stepped(batch, ((1,),) * len(batch.spans))))
        self.scheduler.handle(Paced(self.step_cost))
        self.scheduler.validate()
        self.carry_out(self.scheduler.schedule())

    def carry_out(self, commands: list) -> None:
        for command in commands:
            match command:
                case Step(batch):
                    self.flying.append(Flying(batch, ready_s=self.clock_s))
                case Finish(sequence):
                    self.finished.append(sequence.id)


def homes_of(batch: Batch) -> set[int]:
    return {span.home for span in batch.extends} - {TIER1}


def requests(count: int, prompt: int, new: int) -> Iterator[Request]:
    for number in range(count):
        tokens = tuple(range(1000 * number, 1000 * number + prompt))
        yield Request(number, tokens, SamplingParams(max_tokens=new), 0, new)


def seconds(
    step_cost: StepCost, near: int, far: int, in_flight: int, count: int, new: int = 30
) -> float:
    """Of a job with room for ``near`` sequences on Tier 1 and ``far`` at each worker."""
    prompt = 34
    pages = -(-(prompt + new) // PAGE)
    scheduler = Scheduler(BatchLimits(64, in_flight if far else 1, 2048), page_tokens=PAGE)
    homes = [home for home in step_cost.attend_s if far or home == TIER1]
    for home in homes:
        budget = near if home == TIER1 else far
        scheduler.handle(HomeJoined(home, budget * pages, PAGE))
    for request in requests(count, prompt, new):
        scheduler.handle(Submitted(Sequence(request)))
    machine = Machine(step_cost, scheduler)
    scheduler.handle(Paced(step_cost))
    elapsed = machine.run()
    assert sorted(machine.finished) == list(range(count))
    return elapsed


def step_costs() -> st.SearchStrategy[StepCost]:
    """From weights that take a long time to read to rows that each take as long; workers and links
    of any speed."""
    return st.builds(
        lambda weights, row, near, far, link, workers: StepCost(
            ((1, weights + row), (64, weights + 64 * row)),
            {TIER1: near, **{home: far for home in range(1, workers + 1)}},
            {home: link for home in range(1, workers + 1)},
        ),
        st.floats(0.001, 0.1),
        st.floats(0.0001, 0.02),
        st.floats(1e-8, 1e-4),
        st.floats(1e-8, 1e-2),
        st.floats(0, 0.5),
        st.integers(1, 3),
    )


@settings(deadline=None, max_examples=25)  # whole jobs, twice
@given(
    step_cost=step_costs(),
    near=st.integers(1, 8),
    far=st.integers(1, 15),
    in_flight=st.integers(2, 4),
)
def test_workers_never_make_a_job_slower(
    step_cost: StepCost, near: int, far: int, in_flight: int
) -> None:
    num_workers = len(step_cost.link_s)
    count = 8 * (near + far * num_workers)
    alone = seconds(step_cost, near, 0, 1, count)
    together = seconds(step_cost, near, far, in_flight, count)
    # When nothing waits any more, the last sequences at workers end at their own speed.
    rows = far * num_workers
    last = step_cost.dense_s(rows) + step_cost.link_s[1] + 64 * far * step_cost.attend_s[1]
    assert together <= 1.1 * alone + 30 * last


def test_fast_workers_make_a_job_faster() -> None:
    step_cost = StepCost(((1, 0.03), (64, 0.04)), {TIER1: 1e-6, 1: 1e-6}, {1: 0.001})
    assert seconds(step_cost, 4, 60, 2, 90) < 0.4 * seconds(step_cost, 4, 0, 1, 90)


@pytest.mark.parametrize(("far_s", "pays"), [(1e-6, True), (2e-5, False), (1e-2, False)])
def test_workers_are_used_only_if_that_pays(far_s: float, pays: bool) -> None:
    """20 rows on Tier 1 make some 400 tokens a second with one batch. A second batch takes as long
    again, so that a few more rows at a worker are not worth it."""
    step_cost = StepCost(((1, 0.03), (64, 0.04)), {TIER1: 1e-6, 1: far_s}, {1: 0.0})
    assert step_cost.workers_pay(RowLoad(20, 20_000, 60, 1000.0), in_flight=2) is pays


def test_near_rows_do_not_wait_for_what_a_slow_worker_cannot_attend() -> None:
    load = RowLoad(20, 20_000, 60, 1000.0)
    slow, fast = (
        StepCost(((1, 0.03), (64, 0.04)), {TIER1: 1e-6, 1: s}, {1: 0.0}) for s in (2e-5, 1e-6)
    )
    # two batches take Tier 1 some 0.08 s: time for 4 rows of 1000 tokens
    assert slow.best_far_rows(load, in_flight=2) == 4
    assert fast.best_far_rows(load, in_flight=2) == 60


@pytest.mark.parametrize("slow", [1.0, 1.5, 3.0])
def test_workers_of_unlike_speed_are_equally_busy(slow: float) -> None:
    step_cost = StepCost(((1, 0.01), (64, 0.02)), {1: 1e-6, 2: slow * 1e-6}, {1: 0.0, 2: 0.0})
    scheduler = Scheduler(BatchLimits(64, 2, 2048), page_tokens=PAGE)
    for home in (1, 2):
        scheduler.handle(HomeJoined(home, 1000, PAGE))
    for request in requests(300, 34, 60):
        scheduler.handle(Submitted(Sequence(request)))
    scheduler.handle(Paced(step_cost))
    machine = Machine(step_cost, scheduler)
    machine.run()
    assert max(machine.worker_busy_s.values()) <= 1.15 * min(machine.worker_busy_s.values())
