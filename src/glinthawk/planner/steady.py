"""What a plan makes in the long run, by simulating a short piece of it.

A job of thousands of sequences takes minutes to simulate until it has forgotten its beginning, so
this begins where it would be then.

*Lengths differ*: the first sequences are those that are met in the middle of a job, long ones as
often as they are under way, each at a stage of its life, all equally likely. Only what follows
counts.

*All are alike*: sequences that begin together end together, for ever. So a job is a wave that comes
again, and one whole wave counts. Those that begin in one step stay together and are simulated as
one (planner/coarsening.py).
"""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from glinthawk.core.plan import Plan
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.shape import ModelShape
from glinthawk.planner.coarsening import bunch
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.simulator import Simulator
from glinthawk.planner.workload import Workload
from glinthawk.telemetry.trace import Tracer

__all__ = ["Steady", "simulate_steady"]

#: Turnovers of all that is under way that are simulated at most.
_TURNOVERS = 3.0
#: And of sequences at least.
_FEWEST = 32
#: Of the sequences under way, as many more begin before it counts, in place of those that ended.
_LEAD = 0.25
#: Requests that wait while those before them begin: as many as the simulator reads ahead.
_AHEAD = 512
#: Steps of all slices that are simulated at most, which takes a few seconds.
_STEPS = 200_000
#: Of a wave, what passes before one is counted.
_BEFORE_WAVE = 0.3
#: Sequences of a batch at least, bunched or not.
_ROWS = 4
#: What the simulator answers every time.
_TOKEN = 1


@dataclass(frozen=True, slots=True)
class Steady:
    tokens_per_s: float
    #: How many times what was under way was replaced while it counted.
    turnovers: float


def simulate_steady(
    plan: Plan,
    shape: ModelShape,
    costs: Sequence[SliceCosts],
    workload: Workload,
    living: float,
    *,
    tokens: int = 100_000,
    trace: Tracer | None = None,
) -> Steady | None:
    """With about ``living`` sequences under way (as in ``Estimate``), for about ``tokens`` more;
    None if that takes too many steps, as very long answers in a long pipeline do.

    Raises UsageError when no home can hold a sequence.
    """
    steps = _Steps(_STEPS // plan.slices)
    if len(set(workload.lengths)) > 1:
        simulator = Simulator(plan, costs, plan.pages(shape), trace=trace)
        return _Piece(simulator, workload, max(1, round(living)), tokens).run(steps)
    size = _bunch_size(plan, workload, living, tokens)
    plan, costs = bunch(plan, costs, size)
    simulator = Simulator(plan, costs, plan.pages(shape), trace=trace)
    wave = _simulate_wave(simulator, workload, max(1, round(living / size)), tokens, steps)
    return wave and Steady(size * wave.tokens_per_s, wave.turnovers)


@dataclass(slots=True)
class _Steps:
    """That are left."""

    left: int

    def are_used_up(self) -> bool:
        """Called once a step."""
        self.left -= 1
        return self.left <= 0


def _bunch_size(plan: Plan, workload: Workload, living: float, tokens: int) -> int:
    """No more than twice what begins in one step: that costs a few per cent of the speed."""
    wanted = round(living * workload.mean_output / tokens)
    together = round(plan.batch_tokens / workload.mean_input)
    return max(1, min(wanted, max(2, 2 * together), plan.batch_size // _ROWS))


def _simulate_wave(
    simulator: Simulator, workload: Workload, living: int, tokens: int, steps: _Steps
) -> Steady | None:
    outcome = simulator.outcome
    wave = living * workload.mean_output
    turnovers = int(max(1, min(_TURNOVERS, tokens // wave)))
    begin, end = _BEFORE_WAVE * wave, (_BEFORE_WAVE + turnovers) * wave
    requests = workload.requests((turnovers + 1) * living + _AHEAD)
    simulator.run(requests, lambda: outcome.tokens >= end or steps.are_used_up())
    if outcome.tokens < end:
        return None
    first = next(one for one in outcome.progress if one[1] >= begin)
    return Steady(_rate(first, outcome.progress[-1]), turnovers)


class _Piece:
    """Requests, and what had been done when the first and the last of those that count began."""

    def __init__(
        self, simulator: Simulator, workload: Workload, under_way: int, tokens: int
    ) -> None:
        self._simulator, self._workload, self._under_way = simulator, workload, under_way
        counted = min(_TURNOVERS * under_way, tokens / workload.mean_output)
        self._counted = max(_FEWEST, round(counted))
        self._longest = max(output for _, output in workload.lengths)
        self._marks: list[tuple[float, int]] = []

    def run(self, steps: _Steps) -> Steady | None:
        requests = self._requests()
        self._simulator.run(requests, lambda: len(self._marks) == 2 or steps.are_used_up())
        if len(self._marks) < 2:
            return None
        return Steady(_rate(*self._marks), self._counted / self._under_way)

    def _requests(self) -> Iterator[Request]:
        """As many are read ahead when it begins to count as when it ends. Those that count are the
        workload in small: with prompts of very different lengths, chance would decide."""
        rng, lengths = random.Random(0), self._workload.lengths
        lead = round(_LEAD * self._under_way)
        begun = [(*one, rng.randint(1, one[1])) for one in self._draw_midway(rng)]
        fresh = _spread(lengths, None, lead, rng) + _spread(lengths, None, self._counted, rng)
        fresh += _spread(lengths, None, _AHEAD, rng)
        stages = begun + [(given, output, output) for given, output in fresh]
        marks = len(begun) + lead + _AHEAD, len(stages)
        for number, (given, output, left) in enumerate(stages, start=1):
            yield self._in_order(number, given + output - left, left)
            if number in marks:
                self._marks.append(self._simulator.outcome.progress[-1])

    def _draw_midway(self, rng: random.Random) -> list[tuple[int, int]]:
        """What is found under way at any time: long answers more often."""
        lengths = self._workload.lengths
        return _spread(lengths, [output for _, output in lengths], self._under_way, rng)

    def _in_order(self, number: int, given: int, output: int) -> Request:
        """To the scheduler all answers look equally long, until they end by a stop token: it begins
        long ones first, and a piece of a job would have none but long ones."""
        params = SamplingParams(
            max_tokens=self._longest, min_tokens=output, stop_token_ids=(_TOKEN,)
        )
        return Request(number, (number,) * given, params, seed=0, max_tokens=self._longest)


def _spread(
    pairs: Sequence[tuple[int, int]], weights: Sequence[int] | None, count: int, rng: random.Random
) -> list[tuple[int, int]]:
    """``count`` of ``pairs``, evenly from the lowest to the highest by their weights, shuffled."""
    order = sorted(range(len(pairs)), key=lambda index: pairs[index])
    sums = list(accumulate(weights[index] if weights else 1 for index in order))
    places = [(number + 0.5) / count * sums[-1] for number in range(count)]
    drawn = [pairs[order[bisect_left(sums, place)]] for place in places]
    rng.shuffle(drawn)
    return drawn


def _rate(begin: tuple[float, int], end: tuple[float, int]) -> float:
    return (end[1] - begin[1]) / (end[0] - begin[0])
