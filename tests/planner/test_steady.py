"""A short piece of a job is worth as much as a long job."""

import pytest

from glinthawk.core.plan import Plan
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.coarsening import bunch
from glinthawk.planner.costs import LinkCost
from glinthawk.planner.estimate import estimate
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.roofline import Roofline, roofline_slices
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.steady import simulate_steady
from glinthawk.planner.workload import Workload

CATALOGUE = load_catalogue()
SHAPE = known_shape("Llama-3.1-8B")
GIB = 1 << 30


def lay(slices: int, workers: int, batch: int, in_flight: int) -> tuple[Plan, list[Roofline]]:
    machines = CATALOGUE.machine("A10"), CATALOGUE.machine("r7a-4xlarge")
    plan = Plan(
        model=SHAPE.name,
        kv_dtype="bfloat16",
        slices=slices,
        workers_per_slice=workers,
        batch_size=batch,
        batches_in_flight=in_flight,
        tier1_kv=0 if workers else 5 * GIB,
        worker_kv=50 * GIB if workers else 0,
    )
    return plan, roofline_slices(SHAPE, slices, *machines, LinkCost(1e-4, 1e9), "bfloat16")


LAYOUTS = [(1, 0, 32, 1), (1, 1, 32, 3), (4, 1, 16, 8)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_alike_sequences_come_in_waves(layout: tuple[int, int, int, int]) -> None:
    plan, costs = lay(*layout)
    work = Workload.fixed(256, 64)
    living = estimate(plan, costs, work).living
    requests = work.requests(round(6 * living))
    whole = Simulator(plan, costs, plan.pages(SHAPE)).run(requests)
    piece = simulate_steady(plan, SHAPE, costs, work, living)
    assert piece.tokens_per_s == pytest.approx(whole.tokens_per_s, rel=0.08)
    short = simulate_steady(plan, SHAPE, costs, work, living, tokens=1000)
    assert short.turnovers == 1
    assert short.tokens_per_s == pytest.approx(whole.tokens_per_s, rel=0.12)


def test_other_lengths_begin_in_the_middle() -> None:
    plan, costs = lay(4, 1, 16, 8)
    work = Workload("mixed", tuple((7 * n % 501 + 1, n) for n in range(1, 127)))
    living = estimate(plan, costs, work).living
    whole = Simulator(plan, costs, plan.pages(SHAPE)).run(work.requests(round(12 * living)))
    piece = simulate_steady(plan, SHAPE, costs, work, living)
    assert piece.turnovers >= 2.9
    assert piece.tokens_per_s == pytest.approx(whole.tokens_per_s, rel=0.15)


def test_it_is_the_same_every_time() -> None:
    plan, costs = lay(1, 1, 16, 2)
    work = Workload.sharegpt()
    one, two = (simulate_steady(plan, SHAPE, costs, work, 32, tokens=5000) for _ in range(2))
    assert one == two


def test_a_bunch_takes_as_long_as_its_sequences() -> None:
    plan, costs = lay(1, 1, 32, 2)
    small, bunched = bunch(plan, costs, 4)
    assert (small.batch_size, small.batch_tokens) == (8, plan.batch_tokens // 4)
    one, own = bunched[0], costs[0]
    assert one.dense_s(2, 1) == own.dense_s(8, 4)
    assert one.prompt_s([100]) == pytest.approx(own.prompt_s([100] * 4))
    assert one.far_s(2, 500) == own.far_s(8, 2000)
    assert one.link.seconds(100) == pytest.approx(own.link.seconds(400))
    assert one.link.latency_s == own.link.latency_s
