"""Times by the numbers of machines."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.planner.catalogue import load_catalogue
from glinthawk.planner.costs import LinkCost, SliceCosts
from glinthawk.planner.known_models import known_shape
from glinthawk.planner.roofline import Roofline, roofline_slices

CATALOGUE = load_catalogue()
LINK = LinkCost(1e-3, 1e9)
LLAMA = known_shape("Llama-2-70B")


def costs(model: str = "Llama-2-70B", kv_dtype: str = "float32") -> Roofline:
    return Roofline(
        shape=known_shape(model),
        tier1=CATALOGUE.machine("T4"),
        tier2=CATALOGUE.machine("rome-16"),
        link=LINK,
        kv_dtype=kv_dtype,
    )


def test_it_is_a_cost_model() -> None:
    as_costs: SliceCosts = costs()
    assert as_costs.kv_dtype == "float32"


def test_a_layer_streams_in_the_time_that_the_prototype_measured() -> None:
    # 855.65 M parameters in float16 at 225 GB/s; 2 x 855.65 M x 500 at 25 TFLOP/s.
    assert costs().dense_s(8, 0) / 80 == pytest.approx(7.6e-3, rel=0.01)
    assert costs().dense_s(500, 0) / 80 == pytest.approx(34.2e-3, rel=0.01)


def test_attention_takes_what_the_prototype_measured() -> None:
    # 32 rows at 560 tokens: 4.744 ms a layer.
    assert costs().far_s(32, 32 * 560) / 80 == pytest.approx(4.744e-3, rel=0.01)


def test_many_query_heads_bind_a_slow_core_by_arithmetic() -> None:
    slow = replace(CATALOGUE.machine("rome-16"), flops=1e11)
    bound = replace(costs(), tier2=slow)
    assert bound.far_s(1, 1000) == pytest.approx(80 * 1000 * 2 * 64 * 256 / (1e11 * 0.5))


def test_a_worker_waits_for_its_own_network() -> None:
    far = replace(costs(), tier2=replace(CATALOGUE.machine("rome-16"), network=1e6))
    assert far.far_s(10, 10) == pytest.approx(10 * LLAMA.wire_bytes_out / 1e6)
    assert far.store_s(10) == pytest.approx(10 * LLAMA.kv_bytes_per_token("float16") / 1e6)


def test_a_prompt_costs_half_the_square() -> None:
    flops = 80 * 1000**2 / 2 * 2 * 64 * 256
    assert costs().prompt_s([1000]) == pytest.approx(flops / (65e12 * 0.385))


def test_int8_halves_the_bytes_but_for_its_scales() -> None:
    half, full = costs(kv_dtype="int8"), costs(kv_dtype="float16")
    assert half.far_s(1, 1000) / full.far_s(1, 1000) == pytest.approx(0.5, rel=0.02)


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_more_rows_never_take_less(some: int, more: int) -> None:
    for model in ("Llama-3.1-8B", "Mixtral-8x7B"):
        one = costs(model)
        assert one.dense_s(some, some) <= one.dense_s(some + more, some + more)
        assert one.far_s(some, 100 * some) <= one.far_s(some + more, 100 * (some + more))


def test_equal_slices_are_one_object() -> None:
    slices = roofline_slices(LLAMA, 9, costs().tier1, costs().tier2, LINK, "float16")
    assert len(slices) == 9
    assert len({id(one) for one in slices}) == 3
    assert sum(one.shape.weight_bytes for one in slices) == LLAMA.weight_bytes


def test_a_drive_is_no_machine_of_a_tier() -> None:
    with pytest.raises(UsageError, match="is a drive"):
        replace(costs(), tier2=CATALOGUE.machine("nvme-pcie4"))
