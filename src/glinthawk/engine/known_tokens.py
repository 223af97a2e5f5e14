"""Which tokens of which sequences the nodes of a pipeline have: only others are told."""

from dataclasses import replace

from glinthawk.core.batch import Batch, Span
from glinthawk.wire.control import Admitted, RunStep, StepRow

__all__ = ["KnownTokens"]


class KnownTokens:
    """All nodes are told the same in the same order, so they know the same."""

    def __init__(self) -> None:
        #: Tokens of each sequence that they have, and where it lives.
        self._known: dict[int, tuple[int, int]] = {}

    def step(self, batch: Batch) -> RunStep:
        """What they are told of a batch; they know it from then on."""
        admitted: list[Admitted] = []
        extends = [self._row(span, admitted) for span in batch.extends]
        prompts = [self._row(span, admitted) for span in batch.prompts]
        return RunStep(batch.id, admitted, extends, prompts)

    def forget(self, sequences: list[int]) -> None:
        """They have been told to."""
        for sequence in sequences:
            self._known.pop(sequence, None)

    def lose(self, home: int) -> None:
        """Its sequences begin again."""
        self.forget([s for s, (_, where) in self._known.items() if where == home])

    def clear(self) -> None:
        """Some node knows nothing any more."""
        self._known.clear()

    def _row(self, span: Span, admitted: list[Admitted]) -> StepRow:
        sequence = span.sequence
        known, _ = self._known.get(sequence.id, (0, 0))
        if not known:
            # Its name is of any length, and means nothing to nodes.
            request = replace(sequence.request, name="")
            admitted.append(Admitted(sequence.id, request, list(sequence.output)))
            known = sequence.length
        tokens = sequence.tokens(known, sequence.length - known)
        self._known[sequence.id] = (sequence.length, span.home)
        return StepRow(
            sequence.id,
            span.home,
            span.start,
            span.length,
            span.source,
            tokens,
            span.num_sampled,
            span.num_scored,
            span.draft,
            span.num_pooled,
        )
