"""Continuous batching over several homes and several batches in flight.

A sequence waits until a home has room for what it will become, is prefilled in one span, then takes
one decode row a step until it ends. A prompt that begins with the same pages as another's at that
home shares them and is prefilled from there. When a home runs out of pages, its youngest resting
sequence is pre-empted: it waits again, at the front, with all tokens it has.
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import filterfalse
from typing import Self

from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.sequence import Phase, Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import (
    Abort,
    Command,
    Event,
    Finish,
    HomeJoined,
    HomeLost,
    Paced,
    Step,
    Stepped,
    Submitted,
)
from glinthawk.scheduler.kv_budget import KVBudget, Start
from glinthawk.scheduler.offload_policy import OffloadPolicy
from glinthawk.scheduler.placement import Placement
from glinthawk.scheduler.preemption import Preemption
from glinthawk.scheduler.request_queue import RequestQueue
from glinthawk.scheduler.sequence_table import SequenceTable
from glinthawk.scheduler.step_cost import TIER1

__all__ = ["Scheduler"]

#: Sequences that are passed over because another one is just computing their prefix.
_MOST_ASIDE = 64

#: What is counted over a whole run.
_COUNTS = (
    "num_shared_tokens",
    "num_repeated_tokens",
    "num_cramped",
    "_num_admitted",
    "_num_batches",
)


class Scheduler:
    """``handle`` an event, or ``schedule``: both return commands to carry out in order."""

    def __init__(
        self,
        limits: BatchLimits,
        lengths: AnswerLengths | None = None,
        page_tokens: int = PAGE_TOKENS,
    ) -> None:
        self.limits = limits
        self.num_shared_tokens = 0
        #: Tokens whose KV was given up or lost, and was computed again.
        self.num_repeated_tokens = 0
        #: Batches that would have been larger if a home had more room.
        self.num_cramped = 0
        self._page_tokens = page_tokens
        self._table = SequenceTable(page_tokens)
        self._batches: dict[int, Batch] = {}
        self._preemption = Preemption(self._table)
        budgets = self._table.budgets
        self._policy = OffloadPolicy(budgets, limits.batch_size, limits.batches_in_flight)
        self._lengths = lengths or AnswerLengths()
        self._placement = Placement(budgets, self._policy, self._lengths)
        self._num_admitted = 0
        self._num_batches = 0

    @property
    def waiting(self) -> RequestQueue:
        """What has not begun, or begins again."""
        return self._table.waiting

    @property
    def num_preemptions(self) -> int:
        """Sequences that gave up their KV for others."""
        return self._preemption.count

    @property
    def num_living(self) -> int:
        """Sequences that hold KV."""
        return self._table.num_living

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.num_living

    def num_pages_used(self, home: int) -> int:
        """Pages of a home that sequences have."""
        return self._table.budgets[home].pages.num_used

    @property
    def num_batches(self) -> int:
        """Batches formed so far."""
        return self._num_batches

    @property
    def homes(self) -> list[int]:
        return list(self._table.budgets)

    def handle(self, event: Event) -> list[Command]:
        """Take in what happened."""
        match event:
            case Submitted(sequence):
                self.waiting.push(sequence)
                return []
            case HomeJoined(home, num_pages, page_tokens, most_sequences):
                self._table.budgets[home] = KVBudget(num_pages, page_tokens, most_sequences)
                return []
            case HomeLost(home):
                return self._lose(home)
            case Paced(step_cost):
                self._policy.step_cost = step_cost
                return []
            case Stepped():
                return self._step_done(event)

    def schedule(self) -> list[Command]:
        """Fill the free batch slots."""
        commands: list[Command] = []
        while len(self._batches) < self._policy.in_flight:
            preemptions = self.num_preemptions
            decodes = self._take_decodes(commands)
            # What was just pre-empted stays out for a step, unless nothing else can run.
            has_room = not decodes or self.num_preemptions == preemptions
            prompts = self._take_prompts(len(decodes), commands) if has_room else []
            if not decodes and not prompts:
                break
            commands.append(Step(self._new_batch(decodes + prompts)))
        return commands

    def drop_waiting(self) -> list[Sequence]:
        """Give up what has not begun; returns it."""
        dropped = list(self.waiting)
        self.waiting.clear()
        return dropped

    def renewed(self) -> Self:
        """One without sequences, batches and homes, which goes on counting and knows what this one
        has learned."""
        new = self._another()
        for count in _COUNTS:
            setattr(new, count, getattr(self, count))
        new._preemption.count = self._preemption.count
        return new

    def _another(self) -> Self:
        return type(self)(self.limits, self._lengths, self._page_tokens)

    # -- forming a batch ---------------------------------------------------------------------------

    def _take_decodes(self, commands: list[Command]) -> list[Span]:
        """Rows for an equal share of the living sequences, longest rested first."""
        share = -(-self.num_living // self._policy.in_flight)
        rows = min(self.limits.batch_size, self.limits.batch_tokens, share)
        most_far = self._policy.far_rows_a_batch()
        spans: list[Span] = []
        passed: list[Sequence] = []
        far: Counter[int | None] = Counter()
        self._preemption.begin_round()
        while self._table.ready and len(spans) < rows:
            sequence, _ = self._table.ready.popitem(last=False)
            if most_far is not None and sequence.home != TIER1 and far[sequence.home] >= most_far:
                passed.append(sequence)
            elif self._preemption.make_room(sequence, commands):
                spans.append(self._span(sequence, sequence.length - 1, 1))
                far[sequence.home] += 1
            elif sequence.phase is Phase.READY:
                passed.append(sequence)
        # What found no page waits for the batches in flight, whose sequences may end.
        self._table.pass_over(passed)
        return spans

    def _take_prompts(self, num_decodes: int, commands: list[Command]) -> list[Span]:
        """Admit waiting sequences while batch and homes have room. One prompt is taken even if it
        and the decode rows exceed the token budget: waiting for those to end would keep the batch
        small for ever."""
        spans: list[Span] = []
        aside: list[Sequence] = []
        sources: set[int | None] = set()  # releases come before the step, so these must stay
        evict = partial(self._preemption.evict, commands=commands, spare=sources)
        tokens = num_decodes
        while self.waiting and num_decodes + len(spans) < self.limits.batch_size:
            sequence = self.waiting.peek()
            placed = self._placement.find(sequence, len(self.waiting), evict)
            if placed is None:
                self.num_cramped += 1
                break
            home, start = placed
            if start.is_early:
                aside.append(self.waiting.pop())
                if len(aside) < _MOST_ASIDE:
                    continue
                break
            if spans and tokens + start.num_own > self.limits.batch_tokens:
                break
            spans.append(self._admit(self.waiting.pop(), home, start))
            sources.add(start.source)
            tokens += start.num_own
        for sequence in aside:
            self.waiting.push(sequence)
        return spans

    def _admit(self, sequence: Sequence, home: int, start: Start) -> Span:
        if sequence.admitted >= 0:
            self.num_repeated_tokens += start.num_own
        sequence.home = home
        sequence.admitted = self._num_admitted
        self._num_admitted += 1
        self.num_shared_tokens += start.num_tokens
        self._table.budgets[home].admit(sequence, start, self._lengths)
        return self._span(sequence, start.num_tokens, start.num_own, start.source)

    def _span(self, sequence: Sequence, start: int, length: int, source: int | None = None) -> Span:
        return Span(sequence, self._table.begin_step(sequence), start, length, source)

    def _new_batch(self, spans: list[Span]) -> Batch:
        def extends(span: Span) -> bool:
            return span.start > 0 or self.limits.prompts_at_home

        spans = sorted(spans, key=lambda span: span.home)
        batch = Batch(
            self._num_batches,
            tuple(filter(extends, spans)),
            tuple(filterfalse(extends, spans)),
        )
        self._num_batches += 1
        self._batches[batch.id] = batch
        return batch

    # -- taking in results -------------------------------------------------------------------------

    def _step_done(self, event: Stepped) -> list[Command]:
        del self._batches[event.batch.id]
        finished: list[Sequence] = []
        for span, tokens in zip(event.batch.spans, event.tokens, strict=True):
            self._table.end_step(span.home)
            sequence = span.sequence
            self._take_in(sequence, tokens, sequence.id in event.stopped)
            if sequence.finish_reason is None:
                self._table.rest(sequence)
            else:
                self._lengths.ended(sequence)
                finished.append(sequence)
        return [*self._table.finish(finished), *map(Finish, finished)]

    def _take_in(self, sequence: Sequence, tokens: tuple[int, ...], stopped: bool) -> None:
        """Tokens up to the first that ends it; a stop string ends with the last of them."""
        assert sequence.home is not None
        budget = self._table.budgets[sequence.home]
        for count, token in enumerate(tokens, start=1):
            budget.stepped(sequence)
            sequence.output.append(token)
            sequence.finish_reason = sequence.end_reason(stopped and count == len(tokens))
            if sequence.finish_reason is not None:
                break

    def _lose(self, home: int) -> list[Command]:
        """Abort the batches that stand on ``home`` and let its sequences begin again elsewhere."""
        aborted = [b for b in self._batches.values() if any(s.home == home for s in b.spans)]
        commands: list[Command] = []
        for batch in aborted:
            commands.append(Abort(batch))
            commands += self._undo(batch, home)
        self._table.lose(home)
        return commands

    def _undo(self, batch: Batch, lost: int) -> Iterable[Command]:
        """Rows at other homes step again, which is harmless: KV is addressed by position."""
        del self._batches[batch.id]
        for span in batch.spans:
            self._table.end_step(span.home)
            if span.home == lost:
                continue
            if span.is_decode:
                self._table.rest(span.sequence)
            else:
                yield self._table.requeue(span.sequence)

    def validate(self) -> None:
        """Every sequence is in one place and every page is accounted for. For tests."""
        self._table.validate(self._batches.values())
        assert len(self._batches) <= self.limits.batches_in_flight
