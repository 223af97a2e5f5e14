"""Steady states without a simulation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.plan import Plan
from glinthawk.core.shape import ModelShape
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.estimate import Estimate, Estimator, estimate
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.roofline import roofline_slices
from glinthawk.planner.workload import Workload

CATALOGUE = load_catalogue()
SHAPE = known_shape("Llama-3.1-8B")
PAGE = PAGE_TOKENS * SHAPE.kv_bytes_per_token("bfloat16")
GIB = 1 << 30
FREE = LinkCost(0.0, 1e30)


@dataclass(frozen=True)
class Simple:
    """A step of 10 s, 1 s a token beyond 100; a worker's row takes 0.1 s; a prompt's nothing."""

    shape: ModelShape = SHAPE
    link: LinkCost = FREE
    kv_dtype: str = "bfloat16"
    row_s: float = 0.1
    #: Of a token: read from drives, written there, made again on Tier 1.
    read_s: float = 0.0
    write_s: float = 0.0
    again_s: float = 0.0

    def dense_s(self, rows: int, logits: int) -> float:
        return max(10.0, rows - 90.0)

    def prompt_s(self, lengths: Sequence[int]) -> float:
        return 0.0

    def near_s(self, rows: int, kv_tokens: int) -> float:
        return 0.0

    def far_s(self, rows: int, kv_tokens: int) -> float:
        return self.row_s * rows

    def store_s(self, tokens: int) -> float:
        return 0.0

    def drive_s(self, rows: int, read_tokens: float, written_tokens: float) -> float:
        return self.read_s * read_tokens + self.write_s * written_tokens

    def rebuild_s(self, tokens: int) -> float:
        return self.again_s * tokens

    def parcel_s(self, rows: int, prompt_tokens: int) -> float:
        return 0.0

    def step_s(self, spans: int) -> float:
        return 0.0


SIMPLE = Plan(model="", kv_dtype="bfloat16", batch_size=50, tier1_kv=100_000 * PAGE)
#: 64 sequences of 128 to 192 tokens in 10,256 tokens.
FULL = replace(SIMPLE, tier1_kv=-(-10_256 // PAGE_TOKENS) * PAGE)


def test_a_small_batch_waits_for_weights() -> None:
    found = estimate(SIMPLE, [Simple()], Workload.fixed(1, 1000))
    # Every step 50 sequences, one of which begins in 20 steps.
    assert found.tokens_per_s == pytest.approx(50 / 10)
    assert (found.binds, found.batch, found.living) == ("weights", 50, 50)
    assert found.tier1_busy == 1


def test_a_batch_is_no_larger_than_what_memory_holds() -> None:
    plan = replace(FULL, batch_size=90)
    found = estimate(plan, [Simple()], Workload.fixed(128, 64))
    held = int((10_272 - 32) / (128 + 31.5 + 16))
    assert found.kv_sequences == found.living == held
    shared = estimate(replace(plan, batches_in_flight=2), [Simple()], Workload.fixed(128, 64))
    assert shared.batch == held / 2


def test_memory_binds_where_a_larger_batch_would_be_free() -> None:
    found = estimate(replace(FULL, batch_size=90), [Simple()], Workload.fixed(8, 6000))
    assert found.binds == "KV memory"


def test_prompts_come_in_steps_of_their_own_time() -> None:
    # One of 10 steps has a prompt of 1000 beside 45 decode rows; 50 answers of 10 tokens.
    work = Workload.fixed(1000, 500)
    found = estimate(SIMPLE, [Simple()], work)
    round_s = 0.9 * 10 + 0.1 * (50 - 0.1 + 1000 - 90)
    assert found.tokens_per_s == pytest.approx(50 / round_s, rel=0.01)
    assert found.prefill_share == pytest.approx(1 - 10 / round_s, rel=0.02)
    assert found.binds == "arithmetic"


def test_the_token_budget_limits_prompts() -> None:
    # Answers of 2 tokens: 25 prompts of 1000 in a step without the budget, 2 with it.
    found = estimate(replace(SIMPLE, batch_tokens=2002), [Simple()], Workload.fixed(1000, 2))
    assert found.batch == pytest.approx(4)
    assert found.tokens_per_s == pytest.approx(4 / (2002 - 90), rel=0.01)


def test_batches_hide_attention() -> None:
    workers = replace(SIMPLE, tier1_kv=0, worker_kv=100_000 * PAGE, workers_per_slice=2)
    work = Workload.fixed(1, 10_000)
    alone = estimate(workers, [Simple()], work)
    assert (alone.tokens_per_s, alone.binds) == (pytest.approx(50 / 12.5), "latency")
    assert alone.far == pytest.approx(alone.living)
    two = estimate(replace(workers, batches_in_flight=2), [Simple()], work)
    assert (two.tokens_per_s, two.binds) == (pytest.approx(50 / 10), "weights")
    assert two.worker_busy == pytest.approx(0.25)
    slow = estimate(replace(workers, batches_in_flight=2), [Simple(row_s=1.0)], work)
    assert (slow.tokens_per_s, slow.binds) == (pytest.approx(50 / 25), "attention bandwidth")


def test_a_pipeline_needs_as_many_batches_as_slices() -> None:
    parts = [Simple(part) for part in SHAPE.cut(4)]
    plan = replace(SIMPLE, slices=4)
    one = estimate(plan, parts, Workload.fixed(1, 100_000))
    four = estimate(replace(plan, batches_in_flight=4), parts, Workload.fixed(1, 100_000))
    assert one.binds == "latency"
    assert four.tokens_per_s == pytest.approx(4 * one.tokens_per_s)


def test_what_does_not_fit_once_makes_no_tokens() -> None:
    plan = replace(SIMPLE, tier1_kv=2 * PAGE)
    found = estimate(plan, [Simple()], Workload.fixed(1000, 10))
    assert (found.tokens_per_s, found.binds) == (0, "KV memory")
    assert estimate(plan, [Simple()], Workload.fixed(32, 32)).kv_sequences == 1


class Rated:
    """8B on A10 and workers, whose sums are checked at every estimate."""

    def __init__(self, latency_s: float, work: Workload, slices: int, near_gib: int = 4) -> None:
        self._near = near_gib * GIB
        machines = CATALOGUE.machine("A10"), CATALOGUE.machine("r7a-4xlarge")
        link = LinkCost(latency_s, 1e9)
        costs = roofline_slices(SHAPE, slices, *machines, link, "bfloat16")
        self._estimator = Estimator(costs, work)
        self._work, self._slices = work, slices
        self._token_bytes = max(part.kv_bytes_per_token("bfloat16") for part in SHAPE.cut(slices))

    def estimate(self, workers: int, batch: int, in_flight: int) -> Estimate:
        plan = Plan(
            model=SHAPE.name,
            kv_dtype="bfloat16",
            slices=self._slices,
            workers_per_slice=workers,
            batch_size=batch,
            batches_in_flight=in_flight,
            tier1_kv=self._near,
            worker_kv=16 * GIB,
        )
        found = self._estimator.estimate(plan)
        assert found.living * self._work.mean_held * self._token_bytes <= (
            self._near + 16 * workers * GIB
        )
        assert found.living <= min(found.kv_sequences, batch * in_flight) * (1 + 1e-9)
        assert found.batch <= batch * (1 + 1e-9)
        assert 0 <= max(found.tier1_busy, found.worker_busy, found.link_busy) <= 1 + 1e-9
        assert 0 <= found.prefill_share <= 1
        return found

    def best(self, workers: int) -> float:
        """Over batches from few to all that memory holds, or holds with fewer workers."""
        fits = [self.estimate(count, 1 << 20, 1).kv_sequences for count in range(workers + 1)]
        sizes = {round(1.2**power) for power in range(int(log(fits[-1], 1.2)) + 1)}
        return max(
            self.estimate(workers, batch, in_flight).tokens_per_s
            for in_flight in (1, 2, 4, 8)
            for batch in sizes | {ceil(most / in_flight) for most in fits}
        )


WORK = st.builds(Workload.fixed, st.integers(1, 4000), st.integers(1, 2000))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), WORK, st.integers(1, 5), st.data())
def test_a_longer_way_is_never_faster(
    one: float, more: float, work: Workload, slices: int, data: st.DataObject
) -> None:
    near, far = Rated(one, work, slices), Rated(one + more, work, slices)
    plan = [data.draw(st.integers(*ends)) for ends in ((0, 8), (1, 2000), (1, 40))]
    slow, fast = far.estimate(*plan), near.estimate(*plan)
    assert slow.tokens_per_s <= fast.tokens_per_s * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.floats(0, 0.01), WORK, st.integers(1, 3))
def test_another_worker_never_harms_a_plan_made_anew(
    workers: int, latency_s: float, work: Workload, slices: int
) -> None:
    rated = Rated(latency_s, work, slices, near_gib=0)
    # Where memory cuts a batch, it cuts rows that this one rounds up.
    assert rated.best(workers + 1) >= rated.best(workers) * 0.98
