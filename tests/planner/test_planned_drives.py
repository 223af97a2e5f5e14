"""Drives at the workers: what they hold, what they cost, and when layer inputs help."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixed_costs import FixedCosts, make_plan, make_shape, requests
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.planner.catalogue import Machine, load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.estimate import Estimate, Estimator, estimate
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.machine_layouts import measured_rigs
from glinthawk.planner.outcome import Outcome
from glinthawk.planner.plan_text import kv_of, xcache_note
from glinthawk.planner.profile import Curve, Grid, Profile
from glinthawk.planner.roofline import Roofline, roofline_slices
from glinthawk.planner.search import Search
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.steady import simulate_steady
from glinthawk.planner.workload import Workload

CATALOGUE = load_catalogue()
MANY, GROUPED = known_shape("Llama-2-7B"), known_shape("Llama-3.1-8B")
TINY = make_shape()
PAGE = PAGE_TOKENS * TINY.kv_bytes_per_token("bfloat16")
GIB = 1 << 30


def with_drives(plan: Plan, memory: int, drives: int = 10_000) -> Plan:
    """Pages in memory and on drives."""
    return replace(plan, worker_kv=memory * PAGE, worker_storage=drives * PAGE)


def simulate(plan: Plan, costs: FixedCosts, count: int, new: int, prompt: int = 3) -> Outcome:
    simulator = Simulator(plan, [costs], plan.pages(TINY), layers=len(TINY.layers))
    return simulator.run(requests(count, new, prompt))


def test_a_worker_has_room_for_what_its_drives_hold() -> None:
    plan = with_drives(make_plan(8), memory=50, drives=700)
    assert plan.pages(TINY) == [0, 700]
    assert plan.most_tails(PAGE) == 25
    assert replace(plan, worker_storage=0).pages(TINY) == [0, 50]
    assert replace(plan, worker_storage=0).most_tails(PAGE) is None


def test_a_step_waits_for_pages_that_memory_does_not_hold() -> None:
    """Memory of 16 pages: 8 sequences of a page each need nothing else, longer ones do."""
    costs = FixedCosts(TINY, body_s=1.0, row_s=0.01, read_s=0.1)
    plan = with_drives(make_plan(8), memory=16)
    in_memory = simulate(plan, costs, 8, 3)
    assert in_memory.seconds == pytest.approx(3 * 1.0 + 2 * 0.08)
    tight = replace(plan, worker_kv=6 * PAGE)
    assert tight.most_tails(PAGE) == 3
    assert simulate(tight, costs, 8, 3).most_living == 3
    # Sequences of 8 pages: 64 pages, 16 in memory, so 3 quarters of 8 x 225 tokens are read.
    long = simulate(plan, costs, 8, 3, prompt=8 * PAGE_TOKENS - 8)
    keys = 8 * (2 * (8 * PAGE_TOKENS - 8) + 1 + 2)
    assert long.seconds == pytest.approx(3 * 1.0 + 0.75 * 0.1 * keys)
    assert long.drives_busy == [pytest.approx(0.75 * 0.1 * keys / long.seconds)]


def test_memory_without_a_tail_for_anybody_is_no_home() -> None:
    with pytest.raises(UsageError, match="no room"):
        simulate(with_drives(make_plan(1), memory=1), FixedCosts(TINY), 1, 3)


def test_writes_take_drives_and_nobody_waits_for_the_last() -> None:
    costs = FixedCosts(TINY, body_s=1.0, write_s=0.5)
    prompt = 3 * PAGE_TOKENS - 8
    in_memory = simulate(with_drives(make_plan(1), memory=64), costs, 1, 3, prompt)
    assert not in_memory.drives_busy
    outcome = simulate(with_drives(make_plan(1), memory=2), costs, 1, 3, prompt)
    # The prompt, and one token for each decode row.
    assert outcome.drives_busy == [pytest.approx(0.5 * (prompt + 2) / outcome.seconds)]


def test_layer_inputs_take_tokens_from_drives_to_tier_1() -> None:
    costs = FixedCosts(TINY, body_s=1.0, read_s=0.1, again_s=0.02)
    prompt = 8 * PAGE_TOKENS - 8
    plan = replace(with_drives(make_plan(8), memory=16), xcache=0.5)
    outcome = simulate(plan, costs, 8, 3, prompt)
    keys = 8 * (2 * prompt + 1 + 2)
    # 32 pages are at the worker, half of them in memory.
    expected = 3 * 1.0 + 0.5 * 0.02 * keys + 0.5 * 0.5 * 0.1 * keys
    assert outcome.seconds == pytest.approx(expected)


def test_fetched_kv_crosses_the_link_and_is_attended_on_tier_1() -> None:
    link = LinkCost(0.0, 1e4)
    costs = FixedCosts(TINY, link=link, body_s=1.0, row_s=0.01)
    plan = replace(make_plan(8), kv_placement="fetch")
    near = simulate(make_plan(8), costs, 8, 3, prompt=100)
    fetched = simulate(plan, costs, 8, 3, prompt=100)
    moved = 8 * (101 + 102) * TINY.kv_bytes_per_token("bfloat16")
    assert fetched.link_busy[0] * fetched.seconds > moved / link.bytes_per_s
    assert fetched.seconds > near.seconds + 0.8 * moved / link.bytes_per_s
    assert sum(fetched.tier2_busy) == 0
    found = estimate(plan, [costs], Workload.fixed(100, 20))
    assert found.binds in ("link", "latency")
    assert found.worker_busy == 0


# -- estimates on machines of the catalogue ------------------------------------------------------


def laid(
    shape=MANY, worker_gib: int = 64, xcache: float = 0.0, batch: int = 32, in_flight: int = 2
) -> Plan:
    return Plan(
        model=shape.name,
        kv_dtype="float16",
        workers_per_slice=1,
        batch_size=batch,
        batches_in_flight=in_flight,
        tier1_kv=0,
        worker_kv=worker_gib * GIB,
        worker_storage=2 << 40,
        xcache=xcache,
    )


def costs_of(far: Machine, shape=MANY) -> list[Roofline]:
    near = CATALOGUE.machine("A100-80G")
    return roofline_slices(shape, 1, near, far, LinkCost(1e-4, near.network), "float16")


def drive(**changes: float) -> Machine:
    return replace(CATALOGUE.machine("L80as_v3"), **changes)


def rate(plan: Plan, far: Machine, work: Workload, shape=MANY) -> Estimate:
    return estimate(plan, costs_of(far, shape), work)


def test_drives_bind_what_memory_does_not_hold() -> None:
    work = Workload.fixed(3000, 1000)
    found = rate(laid(batch=100), drive(), work)
    assert found.binds == "storage"
    assert found.drives_busy == pytest.approx(1)
    # All sequences' KV but for what memory has, at 18 GB/s; writes are a few per cent.
    held = found.living * work.mean_held * MANY.kv_bytes_per_token("float16")
    least_s = (held - 64 * GIB) / 18e9
    round_s = found.living / found.tokens_per_s
    assert round_s == pytest.approx(least_s, rel=0.05)
    assert rate(laid(batch=100, worker_gib=2000), drive(), work).binds == "attention bandwidth"


WORK = st.builds(Workload.fixed, st.integers(1, 3000), st.integers(2, 2000))


@settings(max_examples=60, deadline=None)
@given(WORK, st.floats(1e9, 100e9), st.floats(1, 4), st.data())
def test_more_drive_bandwidth_is_never_slower(work, reads, factor, data) -> None:
    batch, in_flight = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 8))
    plan = laid(
        worker_gib=data.draw(st.integers(8, 300)),
        xcache=data.draw(st.sampled_from([0, 0.3, 0.999])),
        batch=batch,
        in_flight=in_flight,
    )
    slow, fast = (
        rate(plan, drive(storage_reads=one, storage_writes=one / 2), work)
        for one in (reads, factor * reads)
    )
    assert fast.tokens_per_s >= slow.tokens_per_s * (1 - 1e-9)
    assert 0 <= max(slow.drives_busy, slow.worker_busy, slow.tier1_busy) <= 1 + 1e-9
    page_bytes = PAGE_TOKENS * MANY.kv_bytes_per_token("float16")
    assert slow.living <= max(1, plan.most_tails(page_bytes)) * (1 + 1e-9)
    assert slow.living * work.mean_held * page_bytes / PAGE_TOKENS <= plan.worker_storage


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 400), st.integers(2, 30), st.integers(1, 12), st.floats(0, 0.05))
def test_a_simulated_job_is_never_slower_with_faster_drives(prompt, new, batch, read_s) -> None:
    plan = with_drives(make_plan(batch, 2), memory=40)
    fast, slow = (
        simulate(
            plan, FixedCosts(TINY, row_s=0.01, read_s=one, write_s=one), 3 * batch, new, prompt
        )
        for one in (read_s / 2, read_s)
    )
    assert fast.seconds <= slow.seconds * 1.02


@settings(max_examples=60, deadline=None)
@given(WORK, st.floats(1e9, 100e9), st.integers(8, 300), st.integers(1, 400), st.integers(1, 6))
def test_a_balance_is_a_share_and_helps(work, reads, worker_gib, batch, in_flight) -> None:
    plan = laid(worker_gib=worker_gib, batch=batch, in_flight=in_flight)
    far = drive(storage_reads=reads)
    share = Estimator(costs_of(far), work).balance(plan, 200 * GIB)
    assert 0 <= share < 1
    held = rate(plan, far, work).living * work.mean_held
    assert share * held * MANY.input_bytes <= 200 * GIB * (1 + 1e-9)
    before, after = rate(plan, far, work), rate(replace(plan, xcache=share), far, work)
    if before.binds != "latency":
        assert after.tokens_per_s >= before.tokens_per_s * 0.98
    assert Estimator(costs_of(far, GROUPED), work).balance(laid(GROUPED), 200 * GIB) == 0


def test_the_balance_is_the_best_share() -> None:
    work, far = Workload.fixed(1000, 1000), drive()
    plan = laid(batch=120, in_flight=4)
    share = Estimator(costs_of(far), work).balance(plan, 1 << 50)
    shares = [n / 50 for n in range(50)]
    speeds = [rate(replace(plan, xcache=one), far, work).tokens_per_s for one in shares]
    assert 0.1 < share < 0.9
    assert rate(replace(plan, xcache=share), far, work).tokens_per_s >= 0.98 * max(speeds)


def test_simulated_drives_are_as_fast_as_estimated() -> None:
    work = Workload("mixed", tuple((600 + 7 * n % 301, 100 + 37 * n % 301) for n in range(50)))
    for xcache in (0.0, 0.25):
        plan = laid(worker_gib=24, batch=40, in_flight=3, xcache=xcache)
        costs = costs_of(drive())
        found = estimate(plan, costs, work)
        steady = simulate_steady(plan, MANY, costs, work, found.living, tokens=30_000)
        assert found.binds == "storage"
        assert steady.tokens_per_s == pytest.approx(found.tokens_per_s, rel=0.1)


# -- words, profiles ----------------------------------------------------------


def test_words() -> None:
    assert kv_of(laid()) == "float16 + 2.0TiB NVMe"
    assert kv_of(replace(laid(), worker_storage=0, tier1_kv=1)) == "float16 (both)"
    assert "4" in xcache_note(laid(GROUPED), GROUPED, True)
    assert "off: layer inputs are 2.00 times" in xcache_note(laid(GROUPED), GROUPED, True)
    assert "--xcache 0.4" in xcache_note(laid(xcache=0.4), MANY, True)
    assert "host_memory" in xcache_note(laid(), MANY, False)
    # Keys and values in 8 bits are no larger than inputs in 16.
    assert "off" in xcache_note(replace(laid(), kv_dtype="int8"), MANY, True)


def profile(reads: float | None) -> Profile:
    """A step takes 1 ms a row, a token of KV at a worker 1 us."""
    line = Curve(((1, 1e-3), (1000, 1.0)))
    far = Grid(((1.0, Curve(((1, 1e-6), (1000, 1e-3)))),))
    grids = {"float16": far}
    return Profile(
        machine="here", date="2026-11-24", model=MANY.name, dtype="float16", tier1_threads=1,
        worker_threads=1, dense=line, head=Curve(((1, 0.0),)), prompt=line, step=Curve(((1, 0.0),)),
        parcel=Curve(((1, 0.0),)), prompt_parcel=0.0, near=grids, far=grids,
        store={"float16": 0.0}, link_latency_s=0.0, link_bytes_per_s=1e9, storage_bytes_per_s=reads,
    )  # fmt: skip


def test_a_measured_drive_is_planned_with() -> None:
    rigs = list(measured_rigs(MANY, profile(2e9), 16 * GIB, storage=500 * GIB))
    assert sorted(rig.worker_storage for rig in rigs) == [0, 0, 500 * GIB, 500 * GIB]
    costs = rigs[0].costs[0]
    assert costs.drive_s(1, 1000, 200) == pytest.approx(
        1200 * MANY.kv_bytes_per_token("float16") / 2e9
    )
    share = MANY.rebuild_flops / 2 / sum(layer.active_params for layer in MANY.layers)
    assert costs.rebuild_s(500) == pytest.approx(share * 0.5, rel=0.01)
    search = Search(MANY.name, Workload.fixed(1000, 100))
    plans = [one.plan for rig in rigs for one in search.rate(rig, rig.workers[0])]
    assert {bool(one.worker_storage) for one in plans} == {True, False}
    for rig in rigs:
        assert rig.tier1_kv + rig.worker_kv + rig.host_memory <= 16 * GIB


def test_a_drive_must_have_been_measured() -> None:
    with pytest.raises(UsageError, match="glinthawk profile --storage"):
        list(measured_rigs(MANY, profile(None), 16 * GIB, storage=GIB))


def test_machines_and_plans_are_checked() -> None:
    with pytest.raises(UsageError, match="storage_reads of machine L80as_v3"):
        drive(storage_reads=0.0)
    with pytest.raises(UsageError, match="xcache is a share"):
        laid(xcache=1.5)
