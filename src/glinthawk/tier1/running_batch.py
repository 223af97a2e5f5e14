"""A batch on its way through a node: whose answers it waits for, and how fast they come."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from glinthawk.core.batch import Batch, Span
from glinthawk.tier1.forward.cut import Forward

__all__ = ["AttentionSpeed", "RunningBatch"]

#: Weight of what was known when another call is measured.
_MEMORY = 0.99


@dataclass(slots=True)
class AttentionSpeed:
    """A home's attention over recent layers of recent batches."""

    seconds: float = 0.0
    tokens: float = 0.0
    #: Of all layers of all batches so far.
    total_s: float = 0.0

    @property
    def seconds_per_token(self) -> float:
        """To attend one token of KV in one layer."""
        return self.seconds / self.tokens

    def add(self, seconds: float, tokens: int) -> None:
        """One layer of one batch."""
        self.seconds = _MEMORY * self.seconds + seconds
        self.tokens = _MEMORY * self.tokens + tokens
        self.total_s += seconds


@dataclass(slots=True, eq=False)
class RunningBatch:
    """A batch in flight."""

    batch: Batch
    forward: Forward
    #: Rows of each home in the flattened batch: (home id, rows).
    extends: list[tuple[int, slice]]
    prompts: list[tuple[int, slice]]
    #: Tokens of KV that the rows at each home attend to.
    kv_tokens: Counter[int]
    #: Homes whose answer for the current layer has not come.
    awaited: set[int] = field(default_factory=set)
    #: Homes that have not confirmed the step's prompts.
    unstored: set[int] = field(default_factory=set)
    output: torch.Tensor | None = None
    #: What the pass ended with.
    result: torch.Tensor | None = None
    #: A home of its rows is lost; it waits to be aborted.
    is_stuck: bool = False
    #: The batch's place in a trace.
    lane: int = 0

    @classmethod
    def begin(cls, batch: Batch, forward: Forward) -> "RunningBatch":
        """``batch`` before its first layer."""
        return cls(
            batch,
            forward,
            _rows_by_home(batch.extends, 0),
            _rows_by_home(batch.prompts, batch.num_extend_tokens),
            _kv_tokens(batch),
        )

    @property
    def can_run(self) -> bool:
        """Whether nothing keeps it from its next layer."""
        return not self.awaited and self.result is None and not self.is_stuck

    @property
    def is_done(self) -> bool:
        """Whether all that belongs to the step has come."""
        return self.result is not None and not self.unstored and not self.is_stuck


def _kv_tokens(batch: Batch) -> Counter[int]:
    tokens: Counter[int] = Counter()
    for span in batch.extends:
        tokens[span.home] += span.start + span.length
    return tokens


def _rows_by_home(spans: Sequence[Span], first_row: int) -> list[tuple[int, slice]]:
    """Rows of each home; ``spans`` are sorted by home, so each home's rows are one slice.

    >>> # homes 1, 1, 2 with lengths 1, 1, 3 from row 4 -> [(1, 4:6), (2, 6:9)]
    """
    slices = []
    for home_id, group in groupby(spans, key=lambda span: span.home):
        num_rows = sum(span.length for span in group)
        slices.append((home_id, slice(first_row, first_row + num_rows)))
        first_row += num_rows
    return slices
