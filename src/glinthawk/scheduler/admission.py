"""Prompts that join a batch: whole, or the first chunk of a long one."""

from collections.abc import Sequence as Spans
from functools import partial

from glinthawk.core.batch import Span
from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import Command
from glinthawk.scheduler.counts import Counts
from glinthawk.scheduler.kv_budget import Start
from glinthawk.scheduler.placement import Placement
from glinthawk.scheduler.preemption import Preemption
from glinthawk.scheduler.sequence_table import SequenceTable
from glinthawk.scheduler.step_room import StepRoom

__all__ = ["Admission"]

#: Sequences that are passed over because another one is just computing their prefix.
_MOST_ASIDE = 64


class Admission:
    """Gives sequences that wait their homes."""

    def __init__(
        self,
        limits: BatchLimits,
        table: SequenceTable,
        placement: Placement,
        preemption: Preemption,
        lengths: AnswerLengths,
        counts: Counts,
    ) -> None:
        self._limits, self._table, self._placement = limits, table, placement
        self._preemption, self._lengths, self._counts = preemption, lengths, counts

    def take_chunks(self, decodes: Spans[Span]) -> list[Span]:
        """The next chunk of a prompt that has begun, beside decode rows."""
        if not self._table.chunked or len(decodes) >= self._limits.batch_size:
            return []
        sequence = next(iter(self._table.chunked))
        start = sequence.num_computed
        most = StepRoom(self._limits, decodes).most(sequence, start)
        return [self._table.step(sequence, start, most)]

    def take_prompts(self, others: Spans[Span], commands: list[Command]) -> list[Span]:
        """Admit sequences while batch and homes have room; KV that is given up for them is added to
        ``commands``. One prompt is taken even if it and the decode rows exceed the token budget:
        waiting for those to end would keep the batch small for ever. Of a prompt that exceeds it
        alone, a chunk is taken."""
        spans: list[Span] = []
        aside: list[Sequence] = []
        sources: set[int | None] = set()  # releases come before the step, so these must stay
        evict = partial(self._preemption.evict, commands=commands, spare=sources)
        room = StepRoom(self._limits, others)
        while self._table.waiting and len(others) + len(spans) < self._limits.batch_size:
            sequence = self._table.waiting.peek()
            placed = self._placement.find(sequence, len(self._table.waiting), evict)
            if placed is None:
                self._counts.cramped += 1
                break
            home, start = placed
            if start.is_early:
                aside.append(self._table.waiting.pop())
                if len(aside) < _MOST_ASIDE:
                    continue
                break
            if not room.takes(sequence, start.num_tokens):
                break
            spans.append(self._admit(self._table.waiting.pop(), home, start, room))
            sources.add(start.source)
            room.add(spans[-1])
        for sequence in aside:
            self._table.waiting.push(sequence)
        return spans

    def _admit(self, sequence: Sequence, home: int, start: Start, room: StepRoom) -> Span:
        """Into a batch with such ``room``."""
        counts = self._counts
        if sequence.admitted >= 0:
            counts.repeated_tokens += start.num_own
        sequence.home, sequence.admitted = home, counts.admissions
        counts.admissions += 1
        counts.shared_tokens += start.num_tokens
        self._table.budgets[home].admit(sequence, start, self._lengths)
        most = room.most(sequence, start.num_tokens)
        return self._table.step(sequence, start.num_tokens, most, start.source)
