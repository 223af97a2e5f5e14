"""Layouts: what is found fits, and is what the machines can do."""

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.planner import search
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.estimate import estimate
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.machine_layouts import (
    STORAGE_RESERVE,
    TIER1_RESERVE,
    WORKER_RESERVE,
    Offer,
    offered_rigs,
)
from glinthawk.planner.roofline import roofline_slices
from glinthawk.planner.search import Candidate, Found, Rank, Search
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.steady import Steady
from glinthawk.planner.verdict import dollars_of
from glinthawk.planner.workload import Workload

CATALOGUE = load_catalogue()
SMALL, LARGE = known_shape("Llama-3.1-8B"), known_shape("Llama-2-70B")
GIB = 1 << 30


def make_offer(tier1: str = "A10", tier2: str | None = "r7a-4xlarge", most: int = 4) -> Offer:
    far = (CATALOGUE.machine(tier2),) if tier2 else ()
    near = CATALOGUE.machine(tier1)
    return Offer(tier1=(near,), tier2=far, tier1_count=most, tier2_count=3 * most)


def find(offer: Offer, workload: Workload, rank: Rank = "cost", shape=SMALL, top: int = 3) -> Found:
    dropped: Counter[str] = Counter()
    rigs = offered_rigs(shape, offer, [shape.dtype, "int8"], dropped)
    return Search(shape.name, workload, rank, dropped=dropped).run(rigs, top)


@cache
def find_on_both_tiers(rank: Rank = "cost") -> Found:
    return find(make_offer(), Workload.fixed(256, 64), rank)


LENGTHS = st.integers(1, 2000)
MACHINES = st.sampled_from(["T4", "L4", "A10", "A100-40G"])
WORKERS = st.sampled_from([None, "rome-16", "r7a-4xlarge", "L16as_v3", "L80as_v3"])
SHAPES = st.sampled_from([SMALL, LARGE, known_shape("Llama-2-7B")])


@settings(max_examples=40, deadline=None)
@given(st.data(), MACHINES, WORKERS, st.integers(1, 12), LENGTHS, LENGTHS, SHAPES)
def test_no_plan_exceeds_a_memory(data, tier1, tier2, most, given, output, shape) -> None:
    search = Search(shape.name, Workload.fixed(given, output))
    rigs = list(
        offered_rigs(shape, make_offer(tier1, tier2, most), [shape.dtype, "int8"], Counter())
    )
    if not rigs:
        return
    rig = data.draw(st.sampled_from(rigs))
    workers = data.draw(st.sampled_from(rig.workers))
    near = CATALOGUE.machine(tier1).memory * (1 - TIER1_RESERVE)
    assert rig.slices <= most
    assert rig.slices * workers <= 3 * most
    weights = max(part.weight_bytes for part in shape.cut(rig.slices))
    for one in search.rate(rig, workers):
        assert weights + one.plan.tier1_kv <= near
        if workers:
            far = CATALOGUE.machine(tier2)
            assert one.plan.worker_kv <= far.memory * (1 - WORKER_RESERVE)
            assert one.plan.worker_storage <= far.storage * (1 - STORAGE_RESERVE)
        check_held(one, given, output)


def check_held(one: Candidate, given: int, output: int) -> None:
    """What is under way holds no more than the homes have."""
    plan, estimate = one.plan, one.estimate
    pages = sum(plan.pages(one.rig.shape))
    assert estimate.living <= plan.batch_size * plan.batches_in_flight * (1 + 1e-9)
    assert estimate.living * (given + output / 2) <= pages * PAGE_TOKENS * (1 + 1e-9)
    if plan.worker_storage:
        page_bytes = PAGE_TOKENS * max(
            part.kv_bytes_per_token(plan.kv_dtype) for part in one.rig.shape.cut(plan.slices)
        )
        # A page in memory for the tail of each, and as many for pages that are read.
        assert 2 * estimate.far * page_bytes <= plan.workers_per_slice * plan.worker_kv * (1 + 1e-9)
    inputs = max(part.input_bytes for part in one.rig.shape.cut(plan.slices))
    assert plan.xcache * estimate.far * (given + output / 2) * inputs <= (
        one.rig.host_memory * (1 + 1e-9)
    )
    assert 0 <= plan.xcache <= (1 if one.rig.shape.inputs_over_kv(plan.kv_dtype) < 1 else 0)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0, 0.02),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 24),
    st.integers(1, 6),
    st.integers(1, 300),
    st.integers(2, 40),
)
def test_a_link_twice_as_long_is_never_faster(
    latency_s, workers, slices, batch, in_flight, given, output
) -> None:
    plan = Plan(
        model=SMALL.name,
        kv_dtype="bfloat16",
        slices=slices,
        workers_per_slice=workers,
        batch_size=batch,
        batches_in_flight=in_flight,
        tier1_kv=0 if workers else GIB,
        worker_kv=GIB if workers else 0,
    )
    work, speeds = Workload.fixed(given, output), []
    for seconds in (latency_s, 2 * latency_s):
        machines = CATALOGUE.machine("A10"), CATALOGUE.machine("r7a-4xlarge")
        costs = roofline_slices(SMALL, slices, *machines, LinkCost(seconds, 1e9), "bfloat16")
        outcome = Simulator(plan, costs, plan.pages(SMALL)).run(
            work.requests(2 * batch * in_flight)
        )
        speeds.append((estimate(plan, costs, work).tokens_per_s, outcome.tokens_per_s))
    (estimated, simulated), (estimated_far, simulated_far) = speeds
    assert estimated_far <= estimated * (1 + 1e-9)
    assert simulated_far <= simulated * 1.02


@pytest.mark.parametrize("rank", ["cost", "speed"])
def test_the_best_comes_first_and_both_tiers_are_compared(rank: Rank) -> None:
    found = find_on_both_tiers(rank)
    keys = [one.key(rank) for one in found.best]
    assert keys == sorted(keys)
    assert all(one.steady is not None for one in found.best)
    assert {one.is_one_tier for one in found.best} == {True, False}
    layouts = [
        (one.plan.slices, one.plan.workers_per_slice, one.plan.kv_dtype) for one in found.best
    ]
    assert len(set(layouts)) == len(layouts) >= 3
    for one in found.best:
        assert one.tokens_per_s == pytest.approx(one.estimate.tokens_per_s, rel=0.35)


def test_what_takes_long_to_simulate_comes_last_and_its_dollars_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulate = search.simulate_steady

    def give_up_on_two_tiers(plan: Plan, *given: Any, **more: Any) -> Steady | None:
        return None if plan.workers_per_slice else simulate(plan, *given, **more)

    monkeypatch.setattr(search, "simulate_steady", give_up_on_two_tiers)
    best = find_on_both_tiers().best
    is_late = [one.steady is None for one in best]
    assert is_late == sorted(is_late) and any(is_late) and not all(is_late)
    assert [dollars_of(one).startswith("~") for one in best] == is_late


def test_dollars_are_those_of_all_machines() -> None:
    found = find_on_both_tiers()
    near, far = (CATALOGUE.machine(name) for name in ("A10", "r7a-4xlarge"))
    for one in found.best:
        plan = one.plan
        hour = plan.slices * (near.dollars_per_hour + plan.workers_per_slice * far.dollars_per_hour)
        assert one.dollars_per_hour == pytest.approx(hour)
        assert one.dollars_per_million == pytest.approx(hour / 3600 / one.tokens_per_s * 1e6)


def test_what_does_not_fit_is_counted() -> None:
    found = find(make_offer("T4", None, 12), Workload.fixed(64, 8), shape=LARGE, top=1)
    assert found.dropped["the weights do not fit into so few T4"] == 9
    assert {one.plan.slices for one in found.layouts} == {10, 11, 12}


def test_no_plan_at_all_says_why() -> None:
    with pytest.raises(UsageError, match=r"weights do not fit .* \(2\).*--tier1-count"):
        find(make_offer("T4", None, 2), Workload.fixed(64, 8), shape=LARGE)


def test_a_sequence_longer_than_every_home_drops_a_layout() -> None:
    tiny = replace(CATALOGUE.machine("L4"), memory=18 * GIB)
    offer = Offer(tier1=(tiny,), tier1_count=1)
    with pytest.raises(UsageError, match="no KV memory"):
        find(offer, Workload.fixed(60_000, 10_000))


def test_a_drive_computes_nothing() -> None:
    with pytest.raises(UsageError, match="drive"):
        find(make_offer("nvme-pcie4", None), Workload.fixed(64, 8))
