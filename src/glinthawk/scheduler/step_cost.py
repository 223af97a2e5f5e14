"""What a step costs, as measured; and how much KV at workers is worth beside Tier 1's own.

With k batches in flight, "near" rows, whose KV is on Tier 1, and "far" rows, whose KV is at
workers, are spread over the batches equally. While a batch's far rows are attended, Tier 1 runs the
others. So far rows cost nothing while their attention takes no longer than Tier 1's time for the
other batches (NEO, arXiv 2411.01142); beyond that, near rows wait for them.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TIER1", "RowLoad", "StepCost"]

#: The home that is Tier 1's own memory.
TIER1 = 0

#: Workers must promise this much more speed: what is not foreseen here (prompts between the decode
#: rows, batches of unlike sizes) was up to a fifth in simulated jobs.
_WORTH = 1.25
#: Numbers of far rows that are compared.
_STEPS = 16


@dataclass(frozen=True, slots=True)
class RowLoad:
    """Sequences that decode near, and those that do or could decode far."""

    near_rows: int
    #: KV tokens of all near rows.
    near_tokens: int
    far_rows: int
    #: KV tokens of one far row, on average.
    far_length: float


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds, over all layers of a step."""

    #: (rows, seconds) of Tier 1's step without attention, by rising rows; at least one.
    dense: tuple[tuple[int, float], ...]
    #: Of attending one token of KV, by home; one that has not attended yet is taken to be fast.
    attend_s: Mapping[int, float]
    #: To a worker and back once a layer, by worker.
    link_s: Mapping[int, float]

    def dense_s(self, rows: float) -> float:
        """Between measured batches a straight line; beyond the largest in proportion to rows."""
        sizes = [size for size, _ in self.dense]
        index = bisect_left(sizes, rows)
        if index == 0:
            return self.dense[0][1]
        if index == len(sizes):
            return self.dense[-1][1] * rows / sizes[-1]
        (low, low_s), (high, high_s) = self.dense[index - 1 : index + 1]
        return low_s + (high_s - low_s) * (rows - low) / (high - low)

    def workers_pay(self, load: RowLoad, in_flight: int) -> bool:
        """Whether Tier 1 alone, with one batch since nothing is to be hidden then, is slower."""
        best = self.best_far_rows(load, in_flight)
        alone = self._speed(load, 0, 1)
        return best > 0 and self._speed(load, best, in_flight) > _WORTH * alone

    def best_far_rows(self, load: RowLoad, in_flight: int) -> int:
        """Far rows, all batches together, with which most tokens a second are made; 0 only if
        there are none."""
        counts = {-(-load.far_rows * step // _STEPS) for step in range(1, _STEPS + 1)}
        return max(sorted(counts), key=lambda far: self._speed(load, far, in_flight))

    def _speed(self, load: RowLoad, far: int, in_flight: int) -> float:
        """Tokens a second with ``far`` rows spread evenly over the workers."""
        rows = load.near_rows + far
        if not rows:
            return 0.0
        near_s = load.near_tokens * self.attend_s.get(TIER1, 0.0)
        step_s = self.dense_s(rows / in_flight) + near_s / in_flight
        round_s = in_flight * step_s
        for home, link_s in self.link_s.items() if far else ():
            tokens = far / len(self.link_s) * load.far_length
            worker_s = tokens * self.attend_s.get(home, 0.0)
            # A worker attends for all batches; and each batch waits for its own rows.
            away_s = link_s + worker_s / in_flight
            round_s = max(round_s, worker_s, step_s + away_s)
        return rows / round_s
