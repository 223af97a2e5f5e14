"""What was measured is kept, interpolated, and never extrapolated in silence."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixed_costs import make_shape
from glinthawk.bench.profiling import bandwidth
from glinthawk.core.errors import UsageError
from glinthawk.planner.measured import Measured
from glinthawk.planner.profile import Curve, Grid, Profile

CURVE = Curve(((1.0, 1.0), (64.0, 2.0), (256.0, 8.0)))
GRID = Grid(
    ((256.0, Curve(((1.0, 0.1), (64.0, 3.2)))), (1024.0, Curve(((1.0, 0.4), (64.0, 12.8)))))
)


def make_profile() -> Profile:
    return Profile(
        machine="here",
        date="2026-01-01",
        model="tiny",
        dtype="bfloat16",
        tier1_threads=1,
        worker_threads=1,
        dense=CURVE,
        head=CURVE,
        prompt=CURVE,
        step=CURVE,
        parcel=CURVE,
        prompt_parcel=0.001,
        near={},
        far={"bfloat16": GRID},
        store={"bfloat16": 0.002},
        link_latency_s=0.001,
        link_bytes_per_s=1e9,
    )


def make_costs(num_layers: int = 4) -> Measured:
    return Measured(make_profile(), make_shape(4), num_layers, "bfloat16")


@given(st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_more_takes_longer(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert CURVE.at(low) <= CURVE.at(high) + 1e-9


@given(st.floats(1, 200), st.floats(10, 5000), st.floats(1, 4))
def test_a_longer_context_takes_longer(rows: float, context: float, factor: float) -> None:
    assert GRID.at(rows, context) <= GRID.at(rows, factor * context) * (1 + 1e-9)


@given(
    st.lists(st.floats(1e-6, 10), min_size=2, max_size=2),
    st.lists(st.floats(1e-6, 10), min_size=2, max_size=2),
    st.floats(0.1, 1e6),
    st.floats(1, 1e6),
)
def test_what_noise_has_measured_still_takes_time(
    short: list[float], long: list[float], rows: float, context: float
) -> None:
    curves = [Curve(tuple(zip((4.0, 64.0), seconds, strict=True))) for seconds in (short, long)]
    grid = Grid(((64.0, curves[0]), (1024.0, curves[1])))
    assert grid.at(rows, context) > 0


@given(st.floats(1e-6, 10), st.floats(0, 10))
def test_a_latency_that_noise_has_measured_still_leaves_a_bandwidth(
    seconds: float, latency_s: float
) -> None:
    assert 1000 / seconds <= bandwidth(1000, seconds, latency_s) <= 10_001 / seconds


def test_a_latency_is_no_part_of_the_bandwidth() -> None:
    assert bandwidth(1000, 3.0, 0.5) == 500


def test_points_are_met_and_between_contexts_it_is_a_power_law() -> None:
    assert CURVE.at(64) == 2.0
    assert CURVE.at(160) == pytest.approx(5.0)
    assert GRID.at(64, 1024) == pytest.approx(12.8)
    assert GRID.at(64, 512) == pytest.approx(6.4)


def test_a_slice_takes_its_share_of_the_layers_and_the_whole_head() -> None:
    whole, half = make_costs(4), make_costs(8)
    assert half.dense_s(64, 0) == whole.dense_s(64, 0) / 2
    assert half.dense_s(64, 64) - half.dense_s(64, 0) == 2.0
    assert half.far_s(64, 64 * 512) == whole.far_s(64, 64 * 512) / 2


def test_what_lies_beyond_is_said() -> None:
    costs = make_costs()
    costs.dense_s(256, 0)
    costs.far_s(64, 64 * 1024)
    assert costs.notes == []
    costs.dense_s(1024, 0)
    costs.far_s(64, 64 * 4096)
    costs.prompt_s([512])
    assert len(costs.notes) == 3
    assert "1024 was extrapolated from 256" in " ".join(costs.notes)


def test_a_kv_type_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(UsageError, match="--kv-dtype int8"):
        Measured(make_profile(), make_shape(4), 4, "int8")
    with pytest.raises(UsageError, match="Tier 1"):
        make_costs().near_s(1, 100)


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    make_profile().save(path)
    assert Profile.load(path) == make_profile()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"machine": 7}', b"\xff"])
def test_what_is_no_profile_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"profile"):
        Profile.load(path)
