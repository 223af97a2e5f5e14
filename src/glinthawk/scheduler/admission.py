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

    def take_chunks(self, num_decodes: int) -> list[Span]:
        """The next chunk of a prompt that has begun, beside so many decode rows."""
        if not self._table.chunked or num_decodes >= self._limits.batch_size:
            return []
        sequence = next(iter(self._table.chunked))
        return [self._table.step(sequence, sequence.num_computed, self._room(num_decodes))]

    def take_prompts(self, others: Spans[Span], commands: list[Command]) -> list[Span]:
        """Admit sequences while batch and homes have room; KV that is given up for them is added to
        ``commands``. One prompt is taken even if it and the decode rows exceed the token budget:
        waiting for those to end would keep the batch small for ever. Of a prompt that exceeds it
        alone, a chunk is taken."""
        spans: list[Span] = []
        aside: list[Sequence] = []
        sources: set[int | None] = set()  # releases come before the step, so these must stay
        evict = partial(self._preemption.evict, commands=commands, spare=sources)
        num_tokens = sum(span.length for span in others)
        has_prompt = any(not (span.is_decode and span.num_sampled) for span in others)
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
            if has_prompt and num_tokens + start.num_own > self._limits.batch_tokens:
                break
            spans.append(self._admit(self._table.waiting.pop(), home, start, num_tokens))
            sources.add(start.source)
            has_prompt = True
            num_tokens += spans[-1].length
        for sequence in aside:
            self._table.waiting.push(sequence)
        return spans

    def _admit(self, sequence: Sequence, home: int, start: Start, num_tokens: int) -> Span:
        """Into a batch that has ``num_tokens``."""
        counts = self._counts
        if sequence.admitted >= 0:
            counts.repeated_tokens += start.num_own
        sequence.home, sequence.admitted = home, counts.admissions
        counts.admissions += 1
        counts.shared_tokens += start.num_tokens
        self._table.budgets[home].admit(sequence, start, self._lengths)
        is_long = start.num_own > self._limits.batch_tokens
        most = self._room(num_tokens) if is_long else start.num_own
        return self._table.step(sequence, start.num_tokens, most, start.source)

    def _room(self, num_tokens: int) -> int:
        """For a chunk, in a batch that has ``num_tokens``: at least a token."""
        return max(1, self._limits.batch_tokens - num_tokens)
