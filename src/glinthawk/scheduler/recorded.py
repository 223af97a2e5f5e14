"""A scheduler whose every call is noted, so that it can be run again and asked about."""

from collections.abc import Callable
from typing import Self

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import Command, Event, Paced
from glinthawk.scheduler.counts import Counts
from glinthawk.scheduler.records import (
    Dropped,
    Out,
    Record,
    Renewed,
    Scheduled,
    answers_of,
    record_of,
)
from glinthawk.scheduler.scheduler import Scheduler

__all__ = ["RecordedScheduler"]


class RecordedScheduler(Scheduler):
    """Calls ``note`` after each call that may have changed something, also if that has failed.

    Records hold numbers alone: no sequence lives longer for them.
    """

    def __init__(
        self,
        limits: BatchLimits,
        note: Callable[[Record], None],
        lengths: AnswerLengths | None = None,
        page_tokens: int = PAGE_TOKENS,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(limits, lengths, page_tokens, counts)
        self._note = note

    def handle(self, event: Event) -> list[Command]:
        """Take in what happened."""
        if isinstance(event, Paced) and event.step_cost == self._policy.step_cost:
            return []  # told after every step, mostly without news
        out: Out = None
        try:
            issued = super().handle(event)
            out = answers_of(issued)
        finally:
            self._note(record_of(event, out))
        return issued

    def schedule(self) -> list[Command]:
        """Fill the free batch slots."""
        out: Out = None
        try:
            issued = super().schedule()
            out = answers_of(issued)
        finally:
            self._note(Scheduled(out))
        return issued

    def drop_waiting(self) -> list[Sequence]:
        """Give up what has not begun; returns it."""
        dropped = super().drop_waiting()
        if dropped:
            self._note(Dropped(tuple(sequence.id for sequence in dropped)))
        return dropped

    def renewed(self) -> Self:
        """One without sequences, batches and homes, which is noted too."""
        self._note(Renewed())
        return type(self)(self.limits, self._note, self._lengths, self._page_tokens, self.counts)
