"""A few steps of a plan in the long run: what each tier does when."""

from collections import deque
from dataclasses import dataclass

from glinthawk.planner.search import Candidate
from glinthawk.planner.steady import simulate_steady
from glinthawk.planner.workload import Workload

__all__ = ["Interval", "Timeline", "record_timeline"]

#: Intervals that are kept, tokens that are simulated, and lanes of each tier that are shown.
_KEPT, _TOKENS, _LANES = 6000, 20_000, 4
#: Steps of Tier 1's first lane in a timeline.
_STEPS = 24


@dataclass(frozen=True, slots=True)
class Interval:
    process: str
    lane: int
    name: str
    begin: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """``intervals`` begin at 0 or later and end by ``seconds``."""

    lanes: list[str]
    intervals: list[Interval]
    seconds: float

    def busy(self, kind: str) -> float | None:
        """The share of the time in which the busiest lane that begins with ``kind`` is at work;
        None where there is none."""
        lanes = [lane for lane in self.lanes if lane.startswith(kind)]
        sums = [sum(o.seconds for o in self.intervals if o.process == lane) for lane in lanes]
        return min(1.0, max(sums) / self.seconds) if sums else None


class _Last:
    """A tracer that keeps the newest."""

    def __init__(self) -> None:
        self.kept: deque[Interval] = deque(maxlen=_KEPT)

    def add(self, process: str, lane: int, name: str, begin: float, seconds: float) -> None:
        self.kept.append(Interval(process, lane, name, begin, seconds))


def record_timeline(one: Candidate, workload: Workload) -> Timeline:
    """Simulates until the plan has settled."""
    last = _Last()
    rig, living = one.rig, one.estimate.living
    simulate_steady(one.plan, rig.shape, rig.costs, workload, living, tokens=_TOKENS, trace=last)
    lanes = _pick_lanes({interval.process for interval in last.kept})
    shown = [interval for interval in last.kept if interval.process in lanes]
    first = [interval for interval in shown if interval.process == lanes[0]]
    begin = first[-min(len(first), _STEPS)].begin
    end = max(interval.begin + interval.seconds for interval in first)
    return Timeline(lanes, list(_cut(shown, begin, end)), end - begin)


def _pick_lanes(processes: set[str]) -> list[str]:
    """Tier 1 first; workers of the first slice before others."""

    def order(process: str) -> tuple[int, int, bool]:
        kind, _, number = process.rpartition(" ")
        worker = kind.partition(",")[0].rpartition(" ")[2]
        return int(number), int(worker), kind.startswith("drives")

    tier1 = sorted((one for one in processes if one.startswith("tier 1")), key=order)
    workers = sorted(processes - set(tier1), key=order)
    return tier1[:_LANES] + workers[:_LANES]


def _cut(intervals: list[Interval], begin: float, end: float) -> list[Interval]:
    """What lies between, or reaches in."""
    cut = []
    for one in intervals:
        low, high = max(begin, one.begin), min(end, one.begin + one.seconds)
        if low < high:
            cut.append(Interval(one.process, one.lane, one.name, low - begin, high - low))
    return cut
