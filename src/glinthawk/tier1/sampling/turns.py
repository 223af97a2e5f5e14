"""In which order the rows of a draft are sampled after.

What follows a row of a draft counts if all tokens of the draft up to there were guessed right.
Where nothing but a row's own logits and its position decide, all rows of a span are drawn from at
once. Where penalties, bans or a grammar look at the tokens before, the rows take turns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from glinthawk.core.batch import Batch, Span

__all__ = ["Turn", "list_turns"]


@dataclass(slots=True)
class Turn:
    """A span that is sampled after, from row ``first`` of the logits on."""

    span: Span
    first: int
    #: That were drawn, and count.
    tokens: list[int] = field(default_factory=list)

    @property
    def at_once(self) -> range:
        """Places behind the span's newest token, from 0, that are drawn from next."""
        place = len(self.tokens)
        return range(place, place + 1 if _looks_back(self.span) else self.span.num_sampled)

    @property
    def is_over(self) -> bool:
        """Whether nothing more follows: all rows were right, or the last one was wrong."""
        place = len(self.tokens)
        if place == self.span.num_sampled:
            return True
        return place > 0 and self.tokens[-1] != self.span.draft[place - 1]

    def take(self, token: int) -> None:
        """What was drawn at the next place, if it counts."""
        if not self.is_over:
            self.tokens.append(token)


def list_turns(batch: Batch) -> Iterator[Turn]:
    """Those of all spans, in order."""
    first = 0
    for span in batch.spans:
        yield Turn(span, first)
        first += span.num_sampled


def _looks_back(span: Span) -> bool:
    """Whether what follows a row depends on the answer's tokens before it, or on how many they are,
    but for what the model makes of them."""
    sequence, params = span.sequence, span.sequence.request.params
    return (
        params.looks_back
        or params.structured_outputs is not None
        or len(sequence.output) < params.min_tokens
    )
