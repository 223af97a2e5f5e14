"""Rotary embeddings whose frequencies change with a sequence's length."""

from dataclasses import dataclass

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sequence import Sequence

__all__ = ["LengthRope"]


@dataclass(frozen=True, slots=True)
class LengthRope:
    """By which length a row's query and key are rotated, so that an answer is the one that
    transformers' ``generate`` gives to its sequence alone.

    ``generate`` looks at all tokens that it feeds: those of a prompt together, then one after the
    other, whose older keys stay as they are. Phi-3 drops its cache where an answer grows beyond the
    original length and feeds all again (``renews``); it then rotates all keys alike.

    The length follows from the prompt and the row's place, or from the tokens that there are: not
    from chunks, drafts or what was given up, so that no answer depends on its company.
    """

    #: Tokens up to which nothing changes.
    original: int
    #: Whether a sequence that grows beyond is computed again from its beginning.
    renews: bool

    def lengths(self, span: Span) -> list[int]:
        """For each row of ``span``.

        >>> # prompt of 6 tokens, original length 4: rows 0 to 5 get 6, rows 6, 7 get 7, 8
        """
        sequence = span.sequence
        whole = sequence.length if self.renews else len(sequence.request.prompt)
        places = range(span.start, span.start + span.length)
        return [max(whole, place + 1) for place in places]

    def of_batch(self, batch: Batch) -> list[int]:
        """For each row of ``batch``, flattened."""
        return [length for span in batch.spans for length in self.lengths(span)]

    def group(self, sequence: Sequence) -> int:
        """Sequences of one group rotate the tokens that their prompts begin with alike."""
        if self.renews:
            return int(sequence.length > self.original)
        return max(len(sequence.request.prompt), self.original)

    def outgrows(self, sequence: Sequence, before: int) -> bool:
        """Whether its KV is worth nothing since it has more than ``before`` tokens."""
        return self.renews and before <= self.original < sequence.length

    def most_drafted(self, sequence: Sequence) -> int | None:
        """Tokens that may be guessed behind its newest one: their rows are rotated as that is."""
        left = self.original - sequence.length
        return left if self.renews and left >= 0 else None
