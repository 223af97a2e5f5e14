"""Which layers of a model a Tier-1 node has."""

from dataclasses import dataclass

from glinthawk.core.errors import UsageError

__all__ = ["LayerSlice", "split_layers"]


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


def split_layers(num_layers: int, num_slices: int, head_layers: int = 0) -> tuple[LayerSlice, ...]:
    """Slices of equal work, in order; the head counts as ``head_layers`` layers of the last one.

    >>> [len(part) for part in split_layers(10, 3)], [len(part) for part in split_layers(10, 3, 2)]
    ([4, 3, 3], [4, 4, 2])
    """
    if not 1 <= num_slices <= num_layers:
        raise UsageError(
            f"{num_layers} layers cannot be split into {num_slices} slices; "
            f"choose between 1 and {num_layers}"
        )
    sizes = [1] * num_slices
    for _ in range(num_layers - num_slices):
        work = [*sizes[:-1], sizes[-1] + head_layers]
        sizes[work.index(min(work))] += 1
    ends = [sum(sizes[: number + 1]) for number in range(num_slices)]
    return tuple(
        LayerSlice(end - size, end, num_layers) for end, size in zip(ends, sizes, strict=True)
    )
