"""What a plan makes in the long run, by simulating a short piece of it.

A job of thousands of sequences takes minutes to simulate until it has forgotten its beginning, so
this begins where it would be then.

*Lengths differ*: the first sequences are those that are met in the middle of a job, long ones as
often as they are under way, each at a stage of its life, all equally likely. Only what follows
counts.

*All are alike*: sequences that begin together end together, for ever. So a job is a wave that comes
again, and one whole wave counts. Those that begin in one step stay together and are simulated as
one (planner/bunches.py).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from glinthawk.core.plan import Plan
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.shape import ModelShape
from glinthawk.planner.bunches import bunch
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
) -> Steady:
    """With about ``living`` sequences under way (as in ``Estimate``), for about ``tokens`` more.

    Raises UsageError when no home can hold a sequence.
    """
    if len(set(workload.lengths)) > 1:
        simulator = Simulator(plan, costs, plan.pages(shape), trace=trace)
        return _Piece(simulator, workload, max(1, round(living)), tokens).run()
    size = _bunch_size(plan, workload, living, tokens)
    plan, costs = bunch(plan, costs, size)
    simulator = Simulator(plan, costs, plan.pages(shape), trace=trace)
    wave = _simulate_wave(simulator, workload, max(1, round(living / size)), tokens)
    return Steady(size * wave.tokens_per_s, wave.turnovers)


def _bunch_size(plan: Plan, workload: Workload, living: float, tokens: int) -> int:
    """No more than begin in one step."""
    wanted = round(living * workload.mean_output / tokens)
    together = round(plan.batch_tokens / workload.mean_input)
    return max(1, min(wanted, together, plan.batch_size // _ROWS))


def _simulate_wave(simulator: Simulator, workload: Workload, living: int, tokens: int) -> Steady:
    outcome = simulator.outcome
    wave = living * workload.mean_output
    turnovers = int(max(1, min(_TURNOVERS, tokens // wave)))
    begin, end = _BEFORE_WAVE * wave, (_BEFORE_WAVE + turnovers) * wave
    requests = workload.requests((turnovers + 1) * living + _AHEAD)
    simulator.run(requests, lambda: outcome.tokens >= end)
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
        self._marks: list[tuple[float, int]] = []

    def run(self) -> Steady:
        self._simulator.run(self._requests(), lambda: len(self._marks) == 2)
        return Steady(_rate(*self._marks), self._counted / self._under_way)

    def _requests(self) -> Iterator[Request]:
        """They are read as far ahead at the beginning as at the end."""
        lead = round(_LEAD * self._under_way) + _AHEAD
        fresh = self._workload.requests(lead + self._counted)
        yield from _met_midway(self._workload, self._under_way)
        yield from islice(fresh, lead)
        self._mark()
        yield from fresh
        self._mark()

    def _mark(self) -> None:
        self._marks.append(self._simulator.outcome.progress[-1])


def _rate(begin: tuple[float, int], end: tuple[float, int]) -> float:
    return (end[1] - begin[1]) / (end[0] - begin[0])


def _met_midway(workload: Workload, count: int) -> Iterator[Request]:
    """What is found under way at any time; what they said already counts as prompt.

    To the scheduler their answers look as long as others: they end by a stop token.
    """
    rng = random.Random(0)
    weights = list(accumulate(output for _, output in workload.lengths))
    for number in range(-count, 0):
        given, output = rng.choices(workload.lengths, cum_weights=weights)[0]
        left = rng.randint(1, output)
        params = SamplingParams(max_tokens=output, min_tokens=left, stop_token_ids=(_TOKEN,))
        prompt = (number,) * (given + output - left)
        yield Request(number, prompt, params, seed=0, max_tokens=output)
