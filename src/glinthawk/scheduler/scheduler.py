"""Continuous batching over several homes and several batches in flight.

A sequence waits until a home has room for what it will become, and is prefilled: in one span, or,
if that is longer than a batch may be, in chunks of several batches. Then it takes one decode row a
step until it ends, and a draft of what may follow behind that, where guesses pay. A prompt that
begins with the same pages as another's at that home shares them and is prefilled from there. When a
home runs out of pages, its youngest resting sequence is pre-empted: it waits again, at the front,
with all tokens it has. So does one that has outgrown the rotation of its keys (``core/rope.py``).
Smaller priorities are admitted before greater ones, and pre-empted after them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import filterfalse
from typing import Self

from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.sequence import FinishReason, Phase, Sequence
from glinthawk.scheduler.admission import Admission
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
    Release,
    Step,
    Stepped,
    Submitted,
    Withdrawn,
)
from glinthawk.scheduler.counts import Counts
from glinthawk.scheduler.kv_budget import KVBudget
from glinthawk.scheduler.offload_policy import OffloadPolicy
from glinthawk.scheduler.placement import Placement
from glinthawk.scheduler.preemption import Preemption
from glinthawk.scheduler.request_queue import RequestQueue
from glinthawk.scheduler.sequence_table import SequenceTable
from glinthawk.scheduler.speculation import Speculation
from glinthawk.scheduler.step_cost import TIER1

__all__ = ["Scheduler"]


class Scheduler:
    """``handle`` an event, or ``schedule``: both return commands to carry out in order."""

    def __init__(
        self,
        limits: BatchLimits,
        lengths: AnswerLengths | None = None,
        page_tokens: int = PAGE_TOKENS,
        counts: Counts | None = None,
    ) -> None:
        self.limits = limits
        self.counts = counts or Counts()
        self._page_tokens = page_tokens
        self._table = SequenceTable(page_tokens)
        self._batches: dict[int, Batch] = {}
        #: Withdrawn while they stepped.
        self._leaving: set[int] = set()
        self._preemption = Preemption(self._table, self.counts)
        budgets = self._table.budgets
        self._policy = OffloadPolicy(budgets, limits.batch_size, limits.batches_in_flight)
        self._lengths = lengths or AnswerLengths()
        self._speculation = Speculation(limits, budgets, self.counts)
        placement = Placement(budgets, self._policy, self._lengths)
        self._admission = Admission(
            limits, self._table, placement, self._preemption, self._lengths, self.counts
        )

    @property
    def waiting(self) -> RequestQueue:
        """What has not begun, or begins again."""
        return self._table.waiting

    @property
    def sequences(self) -> Iterator[Sequence]:
        """All that wait, and that hold KV."""
        yield from self.waiting
        for budget in self._table.budgets.values():
            yield from budget.living.values()

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

    def kv_tokens(self, home: int) -> tuple[int, int]:
        """Tokens for which a home's pages have room: pages that sequences have, and all."""
        pages = self._table.budgets[home].pages
        return pages.num_used * pages.page_tokens, pages.num_pages * pages.page_tokens

    @property
    def num_batches(self) -> int:
        """Batches in flight."""
        return len(self._batches)

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
                budget = KVBudget(num_pages, page_tokens, most_sequences, self.limits.rope)
                self._table.budgets[home] = budget
                return []
            case HomeLost(home):
                return [*self._lose(home), *self._let_go()]
            case Withdrawn(sequences):
                self._leaving |= sequences
                return [*self._let_go()]
            case Paced(step_cost):
                self._policy.step_cost = step_cost
                return []
            case Stepped():
                return [*self._step_done(event), *self._let_go()]

    def schedule(self) -> list[Command]:
        """Fill the free batch slots."""
        commands: list[Command] = []
        while len(self._batches) < self._policy.in_flight:
            preemptions = self.counts.preemptions
            decodes = self._take_decodes(commands)
            # What was just pre-empted stays out for a step, unless nothing else can run.
            has_room = not decodes or self.counts.preemptions == preemptions
            spans = decodes + self._admission.take_chunks(decodes)
            spans += self._admission.take_prompts(spans, commands) if has_room else []
            if not spans:
                break
            spans = self._speculation.add_drafts(spans)
            commands.append(Step(self._new_batch(spans)))
        return commands

    def drop_waiting(self) -> list[Sequence]:
        """Give up what has not begun; returns it."""
        dropped = list(self.waiting)
        self.waiting.clear()
        return dropped

    def renewed(self) -> Self:
        """One without sequences, batches and homes, which goes on counting and knows what this one
        has learned of answers' lengths."""
        return type(self)(self.limits, self._lengths, self._page_tokens, self.counts)

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
                spans.append(self._table.step(sequence, sequence.length - 1, 1))
                far[sequence.home] += 1
            elif sequence.phase is Phase.READY:
                passed.append(sequence)
        # What found no page waits for the batches in flight, whose sequences may end.
        self._table.pass_over(passed)
        return spans

    def _new_batch(self, spans: list[Span]) -> Batch:
        def extends(span: Span) -> bool:
            return span.start > 0 or self.limits.prompts_at_home

        spans = sorted(spans, key=lambda span: span.home)
        batch = Batch(
            self.counts.batches,
            tuple(filter(extends, spans)),
            tuple(filterfalse(extends, spans)),
        )
        self.counts.batches += 1
        self._batches[batch.id] = batch
        return batch

    # -- taking in results -------------------------------------------------------------------------

    def _step_done(self, event: Stepped) -> list[Command]:
        del self._batches[event.batch.id]
        finished: list[Sequence] = []
        outgrown: list[Release] = []
        for span, tokens in zip(event.batch.spans, event.tokens, strict=True):
            self._table.end_step(span.home)
            sequence = span.sequence
            self._speculation.stepped(span, tokens)
            # Behind the last token that counts, KV is of wrong guesses, and will be replaced.
            sequence.num_computed = span.start + span.length - span.num_sampled + len(tokens)
            sequence.num_scored += span.num_scored
            sequence.num_pooled += span.num_pooled
            before = sequence.length
            self._take_in(sequence, tokens, sequence.id in event.stopped)
            self.counts.tokens += sequence.length - before
            if sequence.finish_reason is not None:
                self._lengths.ended(sequence)
                finished.append(sequence)
            elif self.limits.rope is not None and self.limits.rope.outgrows(sequence, before):
                outgrown.append(self._table.requeue(sequence))
            else:
                self._table.rest(sequence)
        return [*outgrown, *self._table.finish(finished), *map(Finish, finished)]

    def _take_in(self, sequence: Sequence, tokens: tuple[int, ...], stopped: bool) -> None:
        """Tokens up to the first that ends it; a stop string ends with the last of them."""
        assert sequence.home is not None
        budget = self._table.budgets[sequence.home]
        if not sequence.request.max_tokens and sequence.num_computed == sequence.length:
            budget.computed(sequence)
            sequence.finish_reason = FinishReason.LENGTH
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
            if span.is_first:
                yield self._table.requeue(span.sequence)
            else:
                self._table.rest(span.sequence)

    def _let_go(self) -> Iterable[Command]:
        return self._table.withdraw(self._leaving) if self._leaving else ()

    def validate(self) -> None:
        """Every sequence is in one place and every page is accounted for. For tests."""
        self._table.validate(self._batches.values())
        assert len(self._batches) <= self.limits.batches_in_flight
