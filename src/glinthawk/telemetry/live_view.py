"""A run as somebody sees it who looks on: how fast, how full, what limits it, who is there."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from glinthawk.telemetry.history import History, Stretch, measure, worker_loads
from glinthawk.telemetry.limit import Limit, find_limit
from glinthawk.telemetry.reading import Reading
from glinthawk.telemetry.stats import RunStats

__all__ = ["Change", "HomeView", "LiveView", "RunView", "looking_on"]

#: What happens now is what happened in this time; where no batch began in it, in the longer one.
_NOW_S, _LATELY_S = 10.0, 60.0
_EVERY_S = 1.0
#: Of comings and goings.
_MOST_CHANGES = 50


@dataclass(frozen=True, slots=True)
class HomeView:
    """A home that is there: the share of the time in which it attends, None where nobody knows, and
    tokens of KV."""

    name: str
    load: float | None
    kv_used: int
    kv_room: int


@dataclass(frozen=True, slots=True)
class Change:
    """Somebody came or went, in seconds since 1970."""

    at: float
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """At one moment. ``recent`` is of the last seconds, ``limit`` what bound in them: None where
    nothing runs, or nobody knows."""

    reading: Reading
    recent: Stretch
    limit: Limit | None
    places: list[HomeView]
    changes: list[Change]
    points: list[Stretch]
    #: Another one: all of ``points`` are new.
    revision: int


class LiveView:
    """Takes readings, and shows what they come to. Any thread may do either."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: deque[Reading] = deque()
        self._history = History()
        self._changes: deque[Change] = deque(maxlen=_MOST_CHANGES)

    def take(self, reading: Reading, at: float) -> None:
        """``at`` is in seconds since 1970."""
        with self._lock:
            if self._readings:
                before = self._readings[-1]
                self._history.add(measure(before, reading, at))
                self._changes += _changes(before, reading, at)
            self._readings.append(reading)
            while reading.at_s - self._readings[0].at_s > _LATELY_S:
                self._readings.popleft()

    def look(self, at: float) -> RunView:
        """At what was taken last; raises IndexError before anything was."""
        with self._lock:
            now, before = self._readings[-1], self._before()
            return RunView(
                reading=now,
                recent=measure(before, now, at),
                limit=_limit(before, now),
                places=_places(before, now),
                changes=list(self._changes),
                points=list(self._history.points),
                revision=self._history.revision,
            )

    def _before(self) -> Reading:
        now = self._readings[-1]
        near = next(one for one in self._readings if now.at_s - one.at_s <= _NOW_S)
        return near if near.batches < now.batches else self._readings[0]


@contextmanager
def looking_on(view: LiveView, read: Callable[[], Reading]) -> Iterator[None]:
    """Read once a second, on a thread that lives as long."""
    ending = threading.Event()

    def look() -> None:
        while not ending.wait(_EVERY_S):
            view.take(read(), time.time())

    view.take(read(), time.time())
    thread = threading.Thread(target=look, name="glinthawk-view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _limit(before: Reading, now: Reading) -> Limit | None:
    seconds, batches = now.at_s - before.at_s, now.batches - before.batches
    if before.glance is None or now.glance is None or not seconds or not batches:
        return None
    tier1_s = now.glance.tier1_busy_s - before.glance.tier1_busy_s
    stats = RunStats(
        tier1_busy=tier1_s / seconds,
        tier2_busy=list(worker_loads(before, now).values()),
        kv_full_share=(now.cramped - before.cramped) / batches,
        input_share=(now.input_s - before.input_s) / seconds,
    )
    return find_limit(stats)


def _places(before: Reading, now: Reading) -> list[HomeView]:
    loads = worker_loads(before, now)
    return [
        HomeView(_name(home), loads.get(home), now.kv_used[home], room)
        for home, room in sorted(now.kv_room.items())
    ]


def _changes(before: Reading, now: Reading, at: float) -> Iterator[Change]:
    there, then = now.kv_room.keys(), before.kv_room.keys()
    for home in sorted(then - there):
        yield Change(at, f"{_name(home)} is gone; its sequences begin again elsewhere")
    for home in sorted(there - then):
        yield Change(at, f"{_name(home)} is there")


def _name(home: int) -> str:
    return f"Worker {home}" if home else "Tier 1"
