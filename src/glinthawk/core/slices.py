"""Which layers of a model a Tier-1 node has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import inf
from operator import add

from glinthawk.core.errors import UsageError

__all__ = ["LayerSlice", "balance_layers", "split_layers"]

#: Sums of work are taken to be equal if they differ by no more of them.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class LayerSlice:
    """Layers ``first`` to ``last - 1`` of a model of ``num_layers``.

    The first slice has the embeddings; the last one the final norm, the head and the sampling.
    """

    first: int
    last: int
    num_layers: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last <= self.num_layers:
            raise UsageError(
                f"layers {self.first}:{self.last} are no slice of {self.num_layers} layers; "
                "give first < last, counted from 0"
            )

    def __len__(self) -> int:
        return self.last - self.first

    def __contains__(self, layer: int) -> bool:
        return self.first <= layer < self.last

    @property
    def is_first(self) -> bool:
        return self.first == 0

    @property
    def is_last(self) -> bool:
        return self.last == self.num_layers

    @property
    def is_whole(self) -> bool:
        return self.is_first and self.is_last


def split_layers(num_layers: int, num_slices: int) -> tuple[LayerSlice, ...]:
    """Slices of as many layers each as there can be, in order.

    >>> [len(part) for part in split_layers(10, 3)]
    [4, 3, 3]
    """
    return balance_layers([1.0] * num_layers, 0.0, [1.0] * num_slices)


def balance_layers(
    work: Sequence[float], head: float, speeds: Sequence[float]
) -> tuple[LayerSlice, ...]:
    """A slice for each of ``speeds``, in order, so that the slowest takes as little time as it can;
    of such splits, that with the smallest squares, so that the others are alike too. ``work`` is
    each layer's, ``head`` that of the last slice beside; in units of which a slice of speed 1 does
    one a second.

    >>> [len(part) for part in balance_layers([1.0] * 16, 4.3, [1.0] * 4)]
    [5, 5, 5, 1]

    Raises UsageError when there are fewer layers than slices.
    """
    num_layers, num_slices = len(work), len(speeds)
    if not 1 <= num_slices <= num_layers:
        raise UsageError(
            f"{num_layers} layers cannot be split into {num_slices} slices; "
            f"choose between 1 and {num_layers}"
        )
    return _balance(tuple(work), head, tuple(speeds))


@lru_cache(maxsize=256)  # a search for a plan asks for the same again and again
def _balance(
    work: tuple[float, ...], head: float, speeds: tuple[float, ...]
) -> tuple[LayerSlice, ...]:
    num_layers, num_slices = len(work), len(speeds)
    sums = [0.0, *accumulate(work)]

    def seconds(number: int, first: int, last: int) -> float:
        is_last = number == num_slices - 1
        return (sums[last] - sums[first] + head * is_last) / speeds[number]

    def squares(number: int, first: int, last: int) -> float:
        one = seconds(number, first, last)
        return one * one if one <= slowest * (1 + _ROUNDING) else inf

    slowest, _ = _cut_best(num_layers, num_slices, seconds, max)
    _, ends = _cut_best(num_layers, num_slices, squares, add)
    return tuple(LayerSlice(first, last, num_layers) for first, last in pairwise([0, *ends]))


def _cut_best(
    num_layers: int,
    num_slices: int,
    cost: Callable[[int, int, int], float],
    join: Callable[[float, float], float],
) -> tuple[float, list[int]]:
    """The least joint cost of slices, and where each ends, by dynamic programming: what comes
    before a cut is best by itself. Of equals, that with the longest slices first: ends are kept
    as negative numbers, the least of which come first."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for number in range(num_slices):
        rest = num_slices - number - 1
        best = {
            last: min(
                (join(before, cost(number, first, last)), [*ends, -last])
                for first, (before, ends) in best.items()
                if first < last
            )
            for last in range(number + 1, num_layers - rest + 1)
            if rest or last == num_layers
        }
    least, ends = best[num_layers]
    return least, [-end for end in ends]
