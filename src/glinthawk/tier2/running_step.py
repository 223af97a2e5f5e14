"""A step of a session, from its beginning to its last layer."""

from dataclasses import dataclass, field
from math import inf

from glinthawk.tier2.pages.page_table import SpanTable
from glinthawk.tier2.pages.visible_pages import Sight

__all__ = ["RunningStep"]


@dataclass(slots=True)
class RunningStep:
    """Tables of a step, each kept until its last layer is done."""

    #: Whose keys and values are kept before rows attend.
    extends: SpanTable | None
    prompts: SpanTable | None
    #: The rows that attend, for each layer: those that extend, or those of its view.
    rows: list[SpanTable | None]
    #: Where its sequences stood before it: (sequences, starts).
    before: tuple[list[int], list[int]]
    #: Those and the ones that are only looked at.
    sequences: list[int]
    #: What it writes to.
    written: list[SpanTable]
    #: What those that extend see through each window, if it is to be sent.
    sights: dict[int | None, Sight] = field(default_factory=dict)
    #: The next layer of its prompts.
    next_stored: int = 0
    #: Rows have attended in all layers before this one.
    next_attended: int = 0

    def start_of(self, sequence: int) -> float:
        """Where what it writes of a sequence begins; infinity if that is only looked at."""
        return dict(zip(*self.before, strict=True)).get(sequence, inf)

    def layer_to_attend(self) -> int | None:
        """The next one in which rows attend; they may have nothing to do in some."""
        layers = range(self.next_attended, len(self.rows))
        return next((layer for layer in layers if self.rows[layer] is not None), None)
