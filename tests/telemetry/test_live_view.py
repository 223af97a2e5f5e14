"""What somebody sees who looks on: rates, loads, the limit, who came and who went."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.telemetry.history import History, Stretch, measure, worker_loads
from glinthawk.telemetry.live_view import LiveView
from glinthawk.telemetry.reading import Glance, Reading

BEGIN = Reading(
    at_s=100.0,
    tokens=0,
    running=8,
    waiting=3,
    in_flight=2,
    most_in_flight=2,
    kv_used={1: 0, 2: 0},
    kv_room={1: 1000, 2: 1000},
    batches=0,
    cramped=0,
    preemptions=0,
    input_s=0.0,
    glance=Glance(0.0, {}),
)


def later(seconds: float, **changes: object) -> Reading:
    """Ten batches a second, as a rule."""
    usual = {"at_s": BEGIN.at_s + seconds, "batches": round(10 * seconds)}
    return replace(BEGIN, **usual | changes)  # type: ignore[arg-type]


def test_rates_are_of_what_lies_between() -> None:
    now = later(
        2, tokens=300, kv_used={1: 500, 2: 0}, glance=Glance(1.0, {1: 0.5, 2: 1.5}, 4000, 2000)
    )
    point = measure(BEGIN, now, 7.0)
    assert (point.at, point.seconds, point.tokens_per_s) == (7.0, 2, 150)
    assert (point.tier1, point.tier2, point.kv) == (0.5, 0.75, 0.25)
    assert (point.bytes_out, point.bytes_back) == (2000, 1000)
    assert worker_loads(BEGIN, now) == {1: 0.25, 2: 0.75}


def test_a_worker_that_begins_again_has_no_load_below_nothing() -> None:
    before = later(1, glance=Glance(0.5, {1: 0.9, 2: 0.9}))
    assert worker_loads(before, later(2, glance=Glance(0.6, {1: 1.0}))) == {
        1: pytest.approx(0.1),
        2: 0.0,
    }


def test_loads_that_nobody_knows_are_not_guessed() -> None:
    blind, view = later(1, glance=None), LiveView()
    view.take(blind, 1.0)
    view.take(later(2, glance=None, tokens=50), 2.0)
    seen = view.look(2.0)
    assert seen.recent.tokens_per_s == 50
    assert (seen.recent.tier1, seen.recent.tier2, seen.limit) == (None, None, None)
    assert [place.load for place in seen.places] == [None, None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"glance": Glance(9.9, {1: 1.0})}, "faster Tier 1"),
        ({"glance": Glance(5.0, {1: 9.5})}, "--kv-dtype int8"),
        ({"glance": Glance(5.0, {1: 1.0})}, "--batches-in-flight"),
        ({"cramped": 80}, "--worker-kv"),
        ({"input_s": 5.0}, "--text-processes"),
    ],
)
def test_the_limit_of_the_last_seconds_says_what_to_do(
    changes: dict[str, object], words: str
) -> None:
    view = LiveView()
    view.take(BEGIN, 0.0)
    view.take(later(10, **changes), 10.0)
    limit = view.look(10.0).limit
    assert limit is not None
    assert words in limit.advice


def test_what_was_long_ago_limits_nothing() -> None:
    view = LiveView()
    view.take(BEGIN, 0.0)
    view.take(later(10, cramped=100), 10.0)
    view.take(later(21, cramped=100, glance=Glance(10.9, {})), 21.0)
    limit = view.look(21.0).limit
    assert limit is not None
    assert "KV memory" not in limit.name


def test_workers_that_come_and_go_are_named() -> None:
    view, alone = LiveView(), {"kv_used": {1: 0}, "kv_room": {1: 1000}}
    view.take(BEGIN, 0.0)
    view.take(later(1, **alone), 1.0)
    view.take(later(2), 2.0)
    changes = [(change.at, change.says) for change in view.look(2.0).changes]
    gone, there = "Worker 2 is gone; its sequences begin again elsewhere", "Worker 2 is there"
    assert changes == [(1.0, gone), (2.0, there)]


def _point(number: int, seconds: float, tier2: float | None = None) -> Stretch:
    return Stretch(
        at=float(number),
        seconds=seconds,
        tokens_per_s=10.0 * number,
        tier1=0.5,
        tier2=tier2,
        kv=0.1,
        bytes_out=1.0,
        bytes_back=0.0,
    )


@given(st.lists(st.floats(0.9, 1.1), min_size=1, max_size=300))
def test_a_history_keeps_the_sum_of_what_was_done(times: list[float]) -> None:
    history = History(most=20, longest_s=1e9)
    points = [_point(number, seconds) for number, seconds in enumerate(times)]
    for point in points:
        history.add(point)
    kept = sum(point.seconds * point.tokens_per_s for point in history.points)
    done = [sum(p.seconds * p.tokens_per_s for p in points[:n]) for n in range(len(points) + 1)]
    # All but what the newest point, which is still growing, has.
    assert any(kept == pytest.approx(one) for one in done[-40:])
    assert len(history.points) <= 20
    assert [one.at for one in history.points] == sorted(one.at for one in history.points)


def test_a_long_history_forgets_its_beginning() -> None:
    history = History(most=10, longest_s=4.0)
    for number in range(1000):
        history.add(_point(number, 1.0))
    assert history.revision > 2
    assert max(point.seconds for point in history.points) <= 4.0
    assert history.points[0].at > 900
    assert history.points[-1].at > 990


def test_what_only_one_of_two_knows_is_kept() -> None:
    history = History(most=2, longest_s=1e9)
    for number, tier2 in enumerate([None, 0.5, None, None]):
        history.add(_point(number, 1.0, tier2))
    assert [point.tier2 for point in history.points] == [0.5, None]
