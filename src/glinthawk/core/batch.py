"""The spans of tokens that take one step together."""

from dataclasses import dataclass, field
from itertools import chain, repeat

import msgspec

from glinthawk.core.sequence import Sequence

__all__ = ["Batch", "RowMeta", "Span"]


class Span(msgspec.Struct, frozen=True):
    """Tokens ``start`` to ``start + length`` of one sequence; the step samples what follows the
    last ``num_sampled`` of them, and scores ``num_scored`` of them: tokens of a prompt that stand
    behind those rows get their log-probabilities. ``num_pooled`` of them are pooled.

    A *prompt* starts at 0: Tier 1 has all the keys that it sees at hand. What starts later
    *extends* the KV at its home and is attended there: a *decode* row by the one newest token, a
    prompt that begins with pages of ``source`` by tokens behind those, a chunk of a long prompt by
    those behind earlier chunks. In batch-invariant runs prompts extend, too, from 0. Nothing is
    sampled after a chunk but the last.

    Behind a decode row may come rows of a *draft*: tokens that are guessed to follow the newest
    one. The step samples after each of its rows, and what follows a wrong guess counts for nothing.
    """

    sequence: Sequence
    home: int
    start: int
    length: int
    source: int | None = None
    num_sampled: int = 1
    num_scored: int = 0
    num_pooled: int = 0
    #: Its last tokens, if the sequence does not have them yet.
    draft: tuple[int, ...] = ()

    @property
    def is_decode(self) -> bool:
        return self.start > 0 and self.length == 1 + len(self.draft)

    @property
    def tokens(self) -> list[int]:
        """Of its rows."""
        known = self.length - len(self.draft)
        return [*self.sequence.tokens(self.start, known), *self.draft]

    def with_draft(self, draft: tuple[int, ...]) -> "Span":
        """This decode row, and rows of ``draft``."""
        assert self.is_decode
        length = 1 + len(draft)
        return msgspec.structs.replace(self, length=length, num_sampled=length, draft=draft)

    @property
    def is_first(self) -> bool:
        """Whether nothing of the sequence was computed at its home before."""
        return self.start == 0 or self.source is not None

    @property
    def scored(self) -> range:
        """Positions of the rows that are scored: all up to the span's end, or to the last but one
        token of the prompt, but for those that were scored before."""
        end = min(self.start + self.length, len(self.sequence.request.prompt) - 1)
        return range(end - self.num_scored, end)

    @property
    def pooled(self) -> range:
        """Positions of the rows that are pooled: all up to the last that is to be, but for those
        that were pooled before."""
        end = min(self.start + self.length, self.sequence.request.pooled_rows.stop)
        return range(end - self.num_pooled, end)

    @property
    def is_judged(self) -> bool:
        """Whether it is pooled for the logits of some tokens, not for its hidden state."""
        pooling = self.sequence.request.pooling
        return self.num_pooled > 0 and pooling is not None and bool(pooling.tokens)


@dataclass(frozen=True, slots=True)
class RowMeta:
    """What the T rows of a batch carry, in the order in which they are flattened."""

    #: Token ids (T,) and their places in their sequences (T,).
    tokens: list[int]
    positions: list[int]
    #: Rows (S,) after which tokens are sampled, in ascending order.
    sampled: list[int]
    #: Rows (P,) whose logits say how likely the token was that comes next, in ascending order.
    scored: list[int]
    #: Rows (J,) whose logits of some tokens are asked for, in ascending order.
    judged: list[int]
    #: Rows whose hidden state is asked for, in ascending order.
    pooled: list[int]
    #: Of each row (T,), the number of its LoRA adapter; empty where no row has any.
    adapters: list[int] = field(default_factory=list)

    @property
    def kept(self) -> list[int]:
        """Rows (S + P + J,) whose logits are needed, in ascending order."""
        more = self.scored + self.judged
        return sorted(self.sampled + more) if more else self.sampled


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step in the order they are flattened: first those that extend, then prompts.

    >>> # two decode rows at positions 7 and 4 and a prompt of 3 tokens flatten to
    >>> # positions [7, 4, 0, 1, 2]; the step samples after rows 0, 1 and 4
    """

    id: int
    extends: tuple[Span, ...]
    prompts: tuple[Span, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.extends + self.prompts

    @property
    def num_extend_tokens(self) -> int:
        return sum(span.length for span in self.extends)

    @property
    def num_tokens(self) -> int:
        return sum(span.length for span in self.spans)

    def rows(self) -> RowMeta:
        """All its rows, flattened."""
        tokens: list[int] = []
        positions: list[int] = []
        sampled: list[int] = []
        scored: list[int] = []
        judged: list[int] = []
        pooled: list[int] = []
        for span in self.spans:
            shift = len(tokens) - span.start
            if span.num_scored:
                scored += range(span.scored.start + shift, span.scored.stop + shift)
            if span.num_pooled:
                rows = judged if span.is_judged else pooled
                rows += range(span.pooled.start + shift, span.pooled.stop + shift)
            tokens += span.tokens
            positions += range(span.start, span.start + span.length)
            sampled += range(len(tokens) - span.num_sampled, len(tokens))
        return RowMeta(tokens, positions, sampled, scored, judged, pooled, self._adapters())

    def _adapters(self) -> list[int]:
        spans = [(span.sequence.request.adapter, span.length) for span in self.spans]
        if not any(number for number, _ in spans):
            return []
        return [*chain.from_iterable(repeat(*span) for span in spans)]
