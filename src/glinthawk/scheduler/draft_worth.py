"""Of guesses: how often they are right, and how many tokens of them are worth their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits
from glinthawk.scheduler.step_cost import StepCost

__all__ = ["DraftWorth", "HitRate"]

#: What was seen of one answer counts by this much less with every step, and of all answers.
_MEMORY, _LONG_MEMORY = 0.8, 0.995
#: What one answer is expected to do is what all did, as if it had been seen so many times.
_PRIOR = 1.0
#: A guess may be wrong at any time, however long it was right.
_SUREST = 0.97
#: Drafts must save this much more time than their rows take: those were measured before the run,
#: and are sampled after, too.
_MARGIN = 1.15
#: How sure one must be of a token to draft it; one bar for a batch.
_BARS = (0.8, 0.6, 0.4, 0.25)


@dataclass(slots=True)
class HitRate:
    """How often the next guessed token was right, all before it being so."""

    right: float = 0.0
    judged: float = 0.0

    def add(self, right: int, judged: int, memory: float = _MEMORY) -> None:
        """What came of one more step."""
        self.right = memory * self.right + right
        self.judged = memory * self.judged + judged

    def add_of_many(self, right: int, judged: int) -> None:
        """What came of a step of one among many answers."""
        self.add(right, judged, _LONG_MEMORY)

    def expect(self, others: "HitRate") -> float:
        """Of one answer, by what was seen of it and of ``others``; below 1."""
        prior = (others.right + 1) / (others.judged + 2)
        return min(_SUREST, (self.right + _PRIOR * prior) / (self.judged + _PRIOR))


class DraftWorth:
    """By what a step took before the run: the time that drafts would save, and that they take."""

    def __init__(self, limits: BatchLimits, drafts: DraftLimits) -> None:
        self._most = drafts.most
        self._cost = None if drafts.dense is None else StepCost(drafts.dense, {}, {})
        self._link_s, self._in_flight = drafts.link_s, limits.batches_in_flight

    def may_pay(self, rows: int, decodes: int) -> bool:
        """Whether drafts that are all right would, in a batch of ``rows``."""
        if self._cost is None or not decodes:
            return bool(decodes)
        each = range(1, self._most + 1)
        return any(self._saved_s(rows, decodes, n * decodes, n * decodes) > 0 for n in each)

    def is_hopeless(self, rate: float) -> bool:
        """Whether a guess that is so seldom right is never drafted."""
        return self._cost is not None and rate < _BARS[-1]

    def choose(
        self, rows: int, decodes: int, rates: Sequence[float], longest: Sequence[int]
    ) -> list[int]:
        """How long drafts should be, at most ``longest``, by how often guesses of each are right;
        in a batch of ``rows``, ``decodes`` of which are decode rows, some without a guess."""
        if self._cost is None:
            return list(longest)
        best, best_s = [0] * len(rates), 0.0
        for bar in _BARS:
            lengths = [_reach(*each, bar) for each in zip(rates, longest, strict=True)]
            expected = sum(map(_expect_right, rates, lengths))
            saved_s = self._saved_s(rows, decodes, sum(lengths), expected)
            if saved_s > best_s:
                best, best_s = lengths, saved_s
        return best

    def _saved_s(self, rows: int, decodes: int, drafted: int, right: float) -> float:
        """Seconds that ``right`` tokens would take otherwise, less those that their rows take."""
        token_s = self._step_s(decodes) / decodes
        more_s = max(0.0, self._step_s(rows + drafted) - self._step_s(rows))
        return right * token_s - _MARGIN * more_s

    def _step_s(self, rows: int) -> float:
        """Of one batch among those in flight: Tier 1's time, or its part of all that is waited
        for, if Tier 1 waits."""
        assert self._cost is not None
        dense_s = self._cost.dense_s(rows)
        return max(dense_s, (dense_s + self._link_s) / self._in_flight)


def _reach(rate: float, longest: int, bar: float) -> int:
    """Tokens, all of which are right with probability ``bar`` at least."""
    return min(longest, int(log(bar) / log(rate))) if rate > 0 else 0


def _expect_right(rate: float, length: int) -> float:
    """Of a draft of ``length``: each token counts if all before it are right."""
    return rate * (1 - rate**length) / (1 - rate)
