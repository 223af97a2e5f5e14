"""What a batch still has room for: tokens, and rows that are scored."""

from collections.abc import Iterable

from glinthawk.core.batch import Span
from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.batch_limits import BatchLimits

__all__ = ["StepRoom"]


class StepRoom:
    """Of a batch that has ``spans``, and gets more. A prompt alone may always join, for as much of
    it as there is room for, and for a token at least."""

    def __init__(self, limits: BatchLimits, spans: Iterable[Span] = ()) -> None:
        self._limits = limits
        self._num_tokens = self._num_scored = 0
        self._has_prompt = False
        for span in spans:
            self.add(span)

    def add(self, span: Span) -> None:
        """It is in the batch, too."""
        self._num_tokens += span.length
        self._num_scored += span.num_scored
        self._has_prompt |= span.is_first or not (span.is_decode and span.num_sampled)

    def takes(self, sequence: Sequence, start: int) -> bool:
        """Whether a prompt may join that is computed from ``start`` on."""
        return not self._has_prompt or (
            self._num_tokens + sequence.length - start <= self._limits.batch_tokens
            and self._num_scored + _unscored(sequence, start) <= self._limits.scored_rows
        )

    def most(self, sequence: Sequence, start: int) -> int:
        """Tokens of ``sequence`` from ``start`` on that may join: all where the limits allow it for
        a prompt alone, else a chunk; what has begun goes on by chunks."""
        length = sequence.length - start
        if length > self._limits.batch_tokens or sequence.num_computed:
            length = min(length, max(1, self._limits.batch_tokens - self._num_tokens))
        rows = self._limits.scored_rows - self._num_scored
        if sequence.count_unscored(start, length) > rows:
            length = max(start, sequence.num_scored) + rows - start
        return length


def _unscored(sequence: Sequence, start: int) -> int:
    return sequence.count_unscored(start, sequence.length - start)
