"""The virtual clock: sums that a pencil can check, and properties of any run."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixed_costs import FixedCosts, make_plan, make_shape, requests
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.outcome import Outcome
from glinthawk.planner.simulator import Simulator
from glinthawk.telemetry.trace import Trace

LAYERS = 4


def simulate(
    plan: Plan, costs: FixedCosts, count: int, new: int, layers: int | None = LAYERS
) -> Outcome:
    shape = make_shape(len(costs.shape.layers) * plan.slices)
    simulator = Simulator(plan, [costs] * plan.slices, plan.pages(shape), layers=layers)
    return simulator.run(requests(count, new))


def test_one_batch_takes_its_dense_steps_and_its_attention() -> None:
    """5 tokens: a prompt's step, and 4 decode steps in which 8 rows attend for 0.1 s each."""
    costs = FixedCosts(make_shape(), body_s=1.0, head_s=0.5, row_s=0.1)
    outcome = simulate(make_plan(8), costs, 8, 5)
    assert outcome.tokens == 40
    assert outcome.seconds == pytest.approx(5 * 1.5 + 4 * 0.8)
    assert outcome.tier1_busy == [pytest.approx(5 * 1.5 / outcome.seconds)]
    assert outcome.tier2_busy == [pytest.approx(4 * 0.8 / outcome.seconds)]


def test_near_attention_is_tier_1s_own_work() -> None:
    costs = FixedCosts(make_shape(), body_s=1.0, row_s=0.1)
    outcome = simulate(make_plan(8, workers=0), costs, 8, 5)
    assert outcome.seconds == pytest.approx(5 * 1.0 + 4 * 0.8)
    assert outcome.tier1_busy == [pytest.approx(1.0)]


def test_two_batches_hide_each_others_attention() -> None:
    """Attention as long as the dense step: alone half of the time is lost, with two batches none
    but the ends."""
    costs = FixedCosts(make_shape(), body_s=1.0, row_s=0.125)
    alone = simulate(make_plan(8), costs, 16, 40)
    together = simulate(make_plan(8, in_flight=2), costs, 16, 40)
    assert alone.tier1_busy[0] == pytest.approx(0.5, abs=0.03)
    assert together.tier1_busy[0] > 0.95
    assert together.seconds == pytest.approx(80 * 1.0, rel=0.05)


def test_a_link_costs_its_latency_twice_in_every_layer() -> None:
    near = FixedCosts(make_shape())
    far = FixedCosts(make_shape(), link=LinkCost(0.25, 1e12))
    extra = simulate(make_plan(4), far, 4, 11).seconds - simulate(make_plan(4), near, 4, 11).seconds
    # A decode step waits in each layer; the prompts' step once, for word that they are kept, while
    # the last three quarters of a layer are computed.
    word_s = 2 * 0.25 - 0.75 / LAYERS
    assert extra == pytest.approx(word_s + 10 * LAYERS * 2 * 0.25)


def test_a_link_carries_one_parcel_after_the_other() -> None:
    shape = make_shape()
    out, back = shape.wire_bytes_out, shape.wire_bytes_back
    slow = FixedCosts(shape, link=LinkCost(0.0, 4 * out), body_s=1e-9)
    outcome = simulate(make_plan(4), slow, 4, 2)
    prompts_s = 4 * 3 * shape.kv_bytes_per_token("bfloat16") / (4 * out)
    assert outcome.seconds == pytest.approx(prompts_s + 1.0 + back / out, rel=1e-6)


def test_slices_work_at_the_same_time() -> None:
    """Two slices with two batches are twice as fast as with one."""
    costs = FixedCosts(make_shape(2), body_s=1.0)
    alone = simulate(make_plan(8, slices=2, workers=0), costs, 16, 40)
    together = simulate(make_plan(8, in_flight=2, slices=2, workers=0), costs, 16, 40)
    assert alone.seconds / together.seconds == pytest.approx(2, rel=0.05)
    assert min(together.tier1_busy) > 0.95


def test_a_slow_worker_is_waited_for() -> None:
    costs = FixedCosts(make_shape(), body_s=0.1, row_s=0.1)
    plan = make_plan(8, workers=2)
    pages = plan.pages(make_shape())
    even = Simulator(plan, [costs], pages).run(requests(8, 20))
    uneven = Simulator(plan, [costs], pages, slow={2: 3.0}).run(requests(8, 20))
    assert uneven.seconds > 2 * even.seconds


def test_few_layers_stand_for_many() -> None:
    """What overlaps stays the same, but for the edges of a step."""
    shape = make_shape(64)
    costs = FixedCosts(shape, link=LinkCost(0.002, 1e12), body_s=1.0, head_s=0.1, row_s=0.1)
    plan = make_plan(8, in_flight=3)
    full, few = (
        Simulator(plan, [costs], plan.pages(shape), layers=layers).run(requests(48, 30))
        for layers in (64, 8)
    )
    assert few.seconds == pytest.approx(full.seconds, rel=0.05)


def test_a_request_that_fits_nowhere_is_an_error() -> None:
    plan = make_plan(8)
    with pytest.raises(UsageError, match="more memory"):
        Simulator(plan, [FixedCosts(make_shape())], [0, 2]).run(requests(1, 100))


def test_a_trace_has_both_tiers_from_the_second_zero(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.json", begun=0.0)
    plan = make_plan(2)
    costs = FixedCosts(make_shape(), row_s=0.1)
    Simulator(plan, [costs], plan.pages(make_shape()), trace=trace).run(requests(2, 3))
    trace.close()
    events = json.loads((tmp_path / "trace.json").read_text())
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"tier 1, slice 0", "worker 1, slice 0"}
    intervals = [event for event in events if event["ph"] == "X"]
    assert min(event["ts"] for event in intervals) == 0
    assert all(event["dur"] > 0 for event in intervals)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 8),
    in_flight=st.integers(1, 4),
    workers=st.integers(0, 3),
    slices=st.integers(1, 3),
    count=st.integers(1, 40),
    row_s=st.floats(0, 1),
    latency_s=st.floats(0, 1),
)
def test_everything_is_answered_and_nobody_works_more_than_all_the_time(
    batch: int,
    in_flight: int,
    workers: int,
    slices: int,
    count: int,
    row_s: float,
    latency_s: float,
) -> None:
    costs = FixedCosts(make_shape(2), link=LinkCost(latency_s, 1e6), row_s=row_s, keep_s=0.01)
    plan = make_plan(batch, in_flight, workers, slices)
    outcome = simulate(plan, costs, count, 4, layers=None)
    assert outcome.tokens == 4 * count
    assert outcome.prompt_tokens == 3 * count
    assert 1 <= outcome.most_living <= batch * in_flight
    shares = [*outcome.tier1_busy, *outcome.tier2_busy, *outcome.link_busy]
    assert all(0 <= share <= 1 + 1e-9 for share in shares)
    again = simulate(plan, costs, count, 4, layers=None)
    assert again.progress == outcome.progress
