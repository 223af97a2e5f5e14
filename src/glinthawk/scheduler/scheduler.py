"""Continuous batching over several homes and several batches in flight.

A sequence waits until a home has room for what it will become, is prefilled in one span, then takes
one decode row a step until it ends. A prompt that begins with the same pages as another's at that
home shares them and is prefilled from there. When a home runs out of pages, its youngest resting
sequence is pre-empted: it waits again, at the front, with all tokens it has.
"""

from collections import Counter, OrderedDict
from collections.abc import Container, Iterable
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
    Release,
    Step,
    Stepped,
    Submitted,
)
from glinthawk.scheduler.kv_budget import KVBudget, Start
from glinthawk.scheduler.offload_policy import OffloadPolicy
from glinthawk.scheduler.placement import Placement
from glinthawk.scheduler.request_queue import RequestQueue
from glinthawk.scheduler.step_cost import TIER1

__all__ = ["Scheduler"]

#: Sequences that are passed over because another one is just computing their prefix.
_MOST_ASIDE = 64

#: What is counted over a whole run.
_COUNTS = (
    "num_preemptions",
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
        self.num_preemptions = 0
        self.num_shared_tokens = 0
        #: Tokens whose KV was given up or lost, and was computed again.
        self.num_repeated_tokens = 0
        #: Batches that would have been larger if a home had more room.
        self.num_cramped = 0
        self.waiting = RequestQueue(page_tokens)
        #: Longest rested first; in a form in which one in the middle is found at once.
        self._ready: OrderedDict[Sequence, None] = OrderedDict()
        self._batches: dict[int, Batch] = {}
        #: Of the batches' sequences, at each home.
        self._num_stepping: Counter[int] = Counter()
        #: While decode rows are taken: a home's sequences, but for the youngest ones that do not
        #: rest.
        self._resting: dict[int, list[Sequence]] = {}
        self._budgets: dict[int, KVBudget] = {}
        self._policy = OffloadPolicy(self._budgets, limits.batch_size, limits.batches_in_flight)
        self._lengths = lengths or AnswerLengths()
        self._placement = Placement(self._budgets, self._policy, self._lengths)
        self._num_admitted = 0
        self._num_batches = 0

    @property
    def num_living(self) -> int:
        """Sequences that hold KV."""
        return sum(len(budget.living) for budget in self._budgets.values())

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.num_living

    def num_pages_used(self, home: int) -> int:
        """Pages of a home that sequences have."""
        return self._budgets[home].pages.num_used

    @property
    def num_batches(self) -> int:
        """Batches formed so far."""
        return self._num_batches

    @property
    def homes(self) -> list[int]:
        return list(self._budgets)

    def handle(self, event: Event) -> list[Command]:
        """Take in what happened."""
        match event:
            case Submitted(sequence):
                self.waiting.push(sequence)
                return []
            case HomeJoined(home, num_pages, page_tokens, most_sequences):
                self._budgets[home] = KVBudget(num_pages, page_tokens, most_sequences)
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
        return new

    def _another(self) -> Self:
        return type(self)(self.limits, self._lengths, self.waiting.page_tokens)

    # -- forming a batch ---------------------------------------------------------------------------

    def _take_decodes(self, commands: list[Command]) -> list[Span]:
        """Rows for an equal share of the living sequences, longest rested first."""
        share = -(-self.num_living // self._policy.in_flight)
        rows = min(self.limits.batch_size, self.limits.batch_tokens, share)
        most_far = self._policy.far_rows_a_batch()
        spans: list[Span] = []
        passed: list[Sequence] = []
        far: Counter[int | None] = Counter()
        self._resting.clear()
        while self._ready and len(spans) < rows:
            sequence, _ = self._ready.popitem(last=False)
            if most_far is not None and sequence.home != TIER1 and far[sequence.home] >= most_far:
                passed.append(sequence)
            elif self._make_room(sequence, commands):
                spans.append(self._span(sequence, sequence.length - 1, 1))
                far[sequence.home] += 1
            elif sequence.phase is Phase.READY:
                passed.append(sequence)
        # What found no page waits for the batches in flight, whose sequences may end.
        # A later row may have pre-empted it meanwhile.
        for sequence in reversed(passed):
            if sequence.phase is Phase.READY:
                self._ready[sequence] = None
                self._ready.move_to_end(sequence, last=False)
        return spans

    def _make_room(self, sequence: Sequence, commands: list[Command]) -> bool:
        """Room for one more token at home, if need be at the cost of the youngest at rest there."""
        home = sequence.home
        assert home is not None
        budget = self._budgets[home]
        while not budget.pages.grow(sequence.id, sequence.length):
            if self._evict(home, commands):
                continue
            youngest = self._youngest_resting(home)
            if youngest is sequence and self._num_stepping[home]:
                return False
            commands.append(self._preempt(youngest))
            if youngest is sequence:
                return False
        return True

    def _evict(self, home: int, commands: list[Command], spare: Container[int | None] = ()) -> bool:
        """Give up KV that was kept for its prefix; False if there is none."""
        evicted = self._budgets[home].evict(spare)
        if evicted is not None:
            commands.append(Release(home, (evicted,)))
        return evicted is not None

    def _youngest_resting(self, home: int) -> Sequence:
        """Nobody begins to rest while rows are taken, so what was passed over stays so."""
        resting = self._resting.setdefault(home, [])
        if not resting:
            resting += self._budgets[home].living.values()  # in order of admission
        while resting[-1].phase is not Phase.READY:
            resting.pop()
        return resting[-1]

    def _preempt(self, sequence: Sequence) -> Release:
        self.num_preemptions += 1
        self._ready.pop(sequence, None)
        return self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> Release:
        """Back to waiting, without KV."""
        home = self._forget(sequence)
        sequence.phase, sequence.home = Phase.WAITING, None
        self.waiting.push(sequence)
        return Release(home, (sequence.id,))

    def _forget(self, sequence: Sequence) -> int:
        """Take its pages back; returns the home that held them."""
        home = sequence.home
        assert home is not None
        self._budgets[home].forget(sequence)
        return home

    def _take_prompts(self, num_decodes: int, commands: list[Command]) -> list[Span]:
        """Admit waiting sequences while batch and homes have room. One prompt is taken even if it
        and the decode rows exceed the token budget: waiting for those to end would keep the batch
        small for ever."""
        spans: list[Span] = []
        aside: list[Sequence] = []
        sources: set[int | None] = set()  # releases come before the step, so these must stay
        evict = partial(self._evict, commands=commands, spare=sources)
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
        self._budgets[home].admit(sequence, start, self._lengths)
        return self._span(sequence, start.num_tokens, start.num_own, start.source)

    def _span(self, sequence: Sequence, start: int, length: int, source: int | None = None) -> Span:
        assert sequence.home is not None
        sequence.phase = Phase.STEPPING
        self._num_stepping[sequence.home] += 1
        return Span(sequence, sequence.home, start, length, source)

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
        for span, token in zip(event.batch.spans, event.tokens, strict=True):
            sequence = span.sequence
            self._num_stepping[span.home] -= 1
            self._budgets[span.home].stepped(sequence)
            sequence.output.append(token)
            sequence.finish_reason = sequence.end_reason(sequence.id in event.stopped)
            if sequence.finish_reason is None:
                sequence.phase = Phase.READY
                self._ready[sequence] = None
            else:
                finished.append(sequence)
        return self._finish(finished)

    def _finish(self, sequences: list[Sequence]) -> list[Command]:
        freed: dict[int, list[int]] = {}
        for sequence in sequences:
            self._lengths.ended(sequence)
            sequence.phase = Phase.FINISHED
            assert sequence.home is not None
            if self.waiting.has_alike(sequence):
                self._budgets[sequence.home].keep(sequence)
            else:
                freed.setdefault(self._forget(sequence), []).append(sequence.id)
        releases = [Release(home, tuple(ids)) for home, ids in freed.items()]
        return [*releases, *(Finish(sequence) for sequence in sequences)]

    def _lose(self, home: int) -> list[Command]:
        """Abort the batches that stand on ``home`` and let its sequences begin again elsewhere."""
        aborted = [b for b in self._batches.values() if any(s.home == home for s in b.spans)]
        commands: list[Command] = []
        for batch in aborted:
            commands.append(Abort(batch))
            commands += self._undo(batch, home)
        for sequence in list(self._budgets[home].living.values()):
            self._ready.pop(sequence, None)
            self._requeue(sequence)
        del self._budgets[home], self._num_stepping[home]
        return commands

    def _undo(self, batch: Batch, lost: int) -> Iterable[Command]:
        """Rows at other homes step again, which is harmless: KV is addressed by position."""
        del self._batches[batch.id]
        for span in batch.spans:
            sequence = span.sequence
            self._num_stepping[span.home] -= 1
            if span.home == lost:
                continue
            if span.is_decode:
                sequence.phase = Phase.READY
                self._ready[sequence] = None
            else:
                yield self._requeue(sequence)

    def validate(self) -> None:
        """Every sequence is in one place and every page is accounted for. For tests."""
        for budget in self._budgets.values():
            budget.validate()
        stepping = [span.sequence.id for b in self._batches.values() for span in b.spans]
        ready = [sequence.id for sequence in self._ready]
        waiting = [sequence.id for sequence in self.waiting]
        everywhere = stepping + ready + waiting
        assert len(everywhere) == len(set(everywhere))
        living = {id for budget in self._budgets.values() for id in budget.living}
        assert living == set(stepping + ready)
        assert len(self._batches) <= self.limits.batches_in_flight
        assert +self._num_stepping == Counter(
            s.home for b in self._batches.values() for s in b.spans
        )
        for home, budget in self._budgets.items():
            assert all(sequence.home == home for sequence in budget.living.values())
