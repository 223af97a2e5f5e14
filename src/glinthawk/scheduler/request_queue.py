"""Requests without KV, in the order in which they will be admitted."""

from collections import Counter
from collections.abc import Container, Iterator
from heapq import heapify, heappop, heappush

from glinthawk.core.sequence import Sequence

__all__ = ["RequestQueue"]


class RequestQueue:
    """By priority; of one priority pre-empted sequences first, then the longest answers, so that a
    job's tail is short; among equals those together whose prompts begin with the same
    ``page_tokens`` tokens."""

    def __init__(self, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self._heap: list[tuple[int, int, int, int, int, Sequence]] = []
        self._first_of: dict[tuple[int, ...], int] = {}
        self._counts: Counter[tuple[int, ...]] = Counter()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[-1] for entry in self._heap)

    def push(self, sequence: Sequence) -> None:
        """Add a sequence; one that was admitted before goes to the front of its priority."""
        rank = 0 if sequence.admitted >= 0 else 1
        page = self._first_page(sequence)
        self._counts[page] += 1
        first = self._first_of.setdefault(page, sequence.id)
        entry = (rank, -sequence.remaining, first, sequence.id, sequence)
        heappush(self._heap, (sequence.request.priority, *entry))

    def peek(self) -> Sequence:
        """The next to be admitted."""
        return self._heap[0][-1]

    def pop(self) -> Sequence:
        """Take the next to be admitted."""
        sequence = heappop(self._heap)[-1]
        self._discount(sequence)
        return sequence

    def remove(self, numbers: Container[int]) -> list[Sequence]:
        """Take those of these ids out; returns them."""
        removed = [sequence for sequence in self if sequence.id in numbers]
        self._heap = [entry for entry in self._heap if entry[-1].id not in numbers]
        heapify(self._heap)
        for sequence in removed:
            self._discount(sequence)
        return removed

    def has_alike(self, sequence: Sequence) -> bool:
        """Whether a prompt that waits begins with the same page."""
        return len(sequence.request.prompt) >= self.page_tokens and (
            self._first_page(sequence) in self._counts
        )

    def clear(self) -> None:
        """Drop all."""
        self._heap.clear()
        self._counts.clear()
        self._first_of.clear()

    def _discount(self, sequence: Sequence) -> None:
        page = self._first_page(sequence)
        self._counts[page] -= 1
        if not self._counts[page]:
            del self._counts[page], self._first_of[page]

    def _first_page(self, sequence: Sequence) -> tuple[int, ...]:
        return sequence.request.prompt[: self.page_tokens]
