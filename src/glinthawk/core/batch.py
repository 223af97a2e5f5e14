"""The spans of tokens that take one step together."""

from dataclasses import dataclass

from glinthawk.core.sequence import Sequence

__all__ = ["Batch", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``start + length`` of one sequence; the step samples what follows.

    A *prompt* starts at 0 and holds every token so far. A *decode* row is the one newest token.
    """

    sequence: Sequence
    home: int
    start: int
    length: int

    @property
    def is_decode(self) -> bool:
        return self.start > 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step in the order they are flattened: first decode rows, then prompts.

    >>> # two decode rows at positions 7 and 4 and a prompt of 3 tokens flatten to
    >>> # positions [7, 4, 0, 1, 2]; the step samples after rows 0, 1 and 4
    """

    id: int
    decodes: tuple[Span, ...]
    prompts: tuple[Span, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.decodes + self.prompts

    @property
    def num_tokens(self) -> int:
        return len(self.decodes) + sum(span.length for span in self.prompts)
