"""Requests without KV, in the order in which they will be admitted."""

from heapq import heappop, heappush

from glinthawk.core.sequence import Sequence

__all__ = ["Waiting"]


class Waiting:
    """Pre-empted sequences first, then the longest answers, so that a job's tail is short."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Sequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (entry[-1] for entry in self._heap)

    def push(self, sequence: Sequence) -> None:
        """Add a sequence; one that was admitted before goes to the front."""
        rank = 0 if sequence.admitted >= 0 else 1
        heappush(self._heap, (rank, -sequence.remaining, sequence.id, sequence))

    def peek(self) -> Sequence:
        """The next to be admitted."""
        return self._heap[0][-1]

    def pop(self) -> Sequence:
        """Take the next to be admitted."""
        return heappop(self._heap)[-1]

    def clear(self) -> None:
        """Drop all."""
        self._heap.clear()
