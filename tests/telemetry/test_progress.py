"""What a meter says of the time that is left."""

import io

import pytest
from rich.console import Console

from glinthawk.telemetry import progress
from glinthawk.telemetry.progress import Pace, make_meter


class _Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_whole_run() -> None:
    clock = _Clock()
    pace = Pace(clock)
    assert pace.describe(0, 90, 0) == "0 tokens/s"
    clock.now += 600  # the first answers are long in coming, and then there are many at once
    assert pace.describe(29, 90, 6000) == "10 tokens/s, 21 min left"
    assert pace.describe(30, 90, 6000) == "10 tokens/s, 20 min left"
    clock.now += 600
    assert pace.describe(89, 90, 12000) == "10 tokens/s, 13 s left"
    assert pace.describe(90, 90, 12000) == "10 tokens/s"


def test_answers_of_earlier_runs_say_nothing_of_this_one() -> None:
    clock = _Clock()
    pace = Pace(clock)
    pace.describe(500, 1000, 0)
    clock.now += 60
    assert pace.describe(501, 1000, 60) == "1 tokens/s, 8 h 19 min left"


def test_a_log_has_a_line_every_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = _Clock(), io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    monkeypatch.setattr(Pace.__init__, "__defaults__", (clock,))
    with make_meter(quiet=False, console=Console(file=log)) as meter:
        for second in range(100):
            clock.now = 100.0 + second
            meter.update(second, 200, 10 * second)
    assert log.getvalue().splitlines() == [
        "30 of 200 answered, 10 tokens/s, 3 min left",
        "60 of 200 answered, 10 tokens/s, 2 min left",
        "90 of 200 answered, 10 tokens/s, 2 min left",
    ]


def test_quiet_says_nothing() -> None:
    log = io.StringIO()
    with make_meter(quiet=True, console=Console(file=log)) as meter:
        meter.update(1, 2, 3)
    assert not log.getvalue()
