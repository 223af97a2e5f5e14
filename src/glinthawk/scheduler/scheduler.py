"""Continuous batching over several homes and several batches in flight.

A sequence waits until a home has room for what it will become, is prefilled in one span, then takes
one decode row a step until it ends. When a home runs out of pages, its youngest resting sequence is
pre-empted: it waits again, at the front, with all tokens it has.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sequence import FinishReason, Phase, Sequence
from glinthawk.scheduler.commands import (
    Abort,
    Command,
    Event,
    Finish,
    HomeJoined,
    HomeLost,
    Release,
    Step,
    Stepped,
    Submitted,
)
from glinthawk.scheduler.lengths import Lengths
from glinthawk.scheduler.room import Room, peak_tokens
from glinthawk.scheduler.waiting import Waiting

__all__ = ["BatchLimits", "Scheduler"]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a step may be, and how many may be under way."""

    batch_size: int
    batches_in_flight: int
    batch_tokens: int


class Scheduler:
    """``handle`` an event, or ``schedule``: both return commands to carry out in order."""

    def __init__(self, limits: BatchLimits, lengths: Lengths | None = None) -> None:
        self.limits = limits
        self.num_preemptions = 0
        self.waiting = Waiting()
        self._ready: deque[Sequence] = deque()
        self._batches: dict[int, Batch] = {}
        self._rooms: dict[int, Room] = {}
        #: Admitted and not finished, by home and id, in order of admission: the last is youngest.
        self._living: dict[int, dict[int, Sequence]] = {}
        self._lengths = lengths or Lengths()
        self._num_admitted = 0
        self._num_batches = 0

    @property
    def num_living(self) -> int:
        """Sequences that hold KV."""
        return sum(len(living) for living in self._living.values())

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.num_living

    @property
    def homes(self) -> list[int]:
        return list(self._rooms)

    def handle(self, event: Event) -> list[Command]:
        """Take in what happened."""
        match event:
            case Submitted(sequence):
                self.waiting.push(sequence)
                return []
            case HomeJoined(home, num_pages, page_tokens):
                self._rooms[home] = Room(num_pages, page_tokens)
                self._living[home] = {}
                return []
            case HomeLost(home):
                return self._lose(home)
            case Stepped():
                return self._step_done(event)

    def schedule(self) -> list[Command]:
        """Fill the free batch slots."""
        commands: list[Command] = []
        while len(self._batches) < self.limits.batches_in_flight:
            preempted: list[Command] = []
            decodes = self._take_decodes(preempted)
            commands += preempted
            # What was just pre-empted stays out for a step, unless nothing else can run.
            prompts = [] if decodes and preempted else self._take_prompts(len(decodes))
            if not decodes and not prompts:
                break
            commands.append(Step(self._new_batch(decodes, prompts)))
        return commands

    def drop_waiting(self) -> list[Sequence]:
        """Give up what has not begun; returns it."""
        dropped = list(self.waiting)
        self.waiting.clear()
        return dropped

    # -- forming a batch ---------------------------------------------------------------------------

    def _take_decodes(self, commands: list[Command]) -> list[Span]:
        """Rows for an equal share of the living sequences, longest rested first."""
        share = -(-self.num_living // self.limits.batches_in_flight)
        rows = min(self.limits.batch_size, self.limits.batch_tokens, share)
        spans: list[Span] = []
        stuck: list[Sequence] = []
        while self._ready and len(spans) < rows:
            sequence = self._ready.popleft()
            if self._make_room(sequence, commands):
                spans.append(self._span(sequence, sequence.length - 1, 1))
            elif sequence.phase is Phase.READY:
                stuck.append(sequence)
        # What found no page waits for the batches in flight, whose sequences may end.
        # A later row may have pre-empted it meanwhile.
        self._ready.extendleft(s for s in reversed(stuck) if s.phase is Phase.READY)
        return spans

    def _make_room(self, sequence: Sequence, commands: list[Command]) -> bool:
        """Room for one more token at home, if need be at the cost of the youngest at rest there."""
        home = sequence.home
        assert home is not None
        while not self._rooms[home].grow(sequence.id, sequence.length):
            resting = [s for s in self._living[home].values() if s.phase is Phase.READY]
            youngest = max(resting, key=lambda s: s.admitted)
            if youngest is sequence and self._is_stepping(home):
                return False
            commands.append(self._preempt(youngest))
            if youngest is sequence:
                return False
        return True

    def _is_stepping(self, home: int) -> bool:
        return any(s.phase is Phase.STEPPING for s in self._living[home].values())

    def _preempt(self, sequence: Sequence) -> Release:
        self.num_preemptions += 1
        if sequence in self._ready:
            self._ready.remove(sequence)
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
        del self._living[home][sequence.id]
        self._rooms[home].release(sequence.id)
        return home

    def _take_prompts(self, num_decodes: int) -> list[Span]:
        """Admit waiting sequences while batch and homes have room; one prompt may be too long for
        the token budget, then it is the only one."""
        spans: list[Span] = []
        tokens = num_decodes
        while self.waiting and num_decodes + len(spans) < self.limits.batch_size:
            sequence = self.waiting.peek()
            over = tokens + sequence.length > self.limits.batch_tokens
            if over and (spans or (num_decodes and sequence.length <= self.limits.batch_tokens)):
                break
            home = self._place(sequence)
            if home is None:
                break
            self._admit(self.waiting.pop(), home)
            spans.append(self._span(sequence, 0, sequence.length))
            tokens += sequence.length
        return spans

    def _place(self, sequence: Sequence) -> int | None:
        """The home where ``sequence`` leaves the smallest share of its room in use, at the peak."""
        shares = []
        for home, room in self._rooms.items():
            if room.num_free * room.page_tokens < sequence.length:
                continue
            share = self._peak_with(home, sequence) / room.num_tokens
            # A home that is empty takes anything that fits at all.
            if share <= 1 or not self._living[home]:
                shares.append((share, home))
        return min(shares)[1] if shares else None

    def _peak_with(self, home: int, sequence: Sequence) -> int:
        expect = self._lengths.expect_remaining
        outlook = [(s.length, expect(s)) for s in self._living[home].values()]
        outlook.append((sequence.length, expect(sequence)))
        return peak_tokens(outlook, self._rooms[home].page_tokens)

    def _admit(self, sequence: Sequence, home: int) -> None:
        sequence.home = home
        sequence.admitted = self._num_admitted
        self._num_admitted += 1
        self._living[home][sequence.id] = sequence
        fits = self._rooms[home].grow(sequence.id, sequence.length)
        assert fits

    def _span(self, sequence: Sequence, start: int, length: int) -> Span:
        assert sequence.home is not None
        sequence.phase = Phase.STEPPING
        return Span(sequence, sequence.home, start, length)

    def _new_batch(self, decodes: list[Span], prompts: list[Span]) -> Batch:
        def by_home(span: Span) -> int:
            return span.home

        batch = Batch(
            self._num_batches,
            tuple(sorted(decodes, key=by_home)),
            tuple(sorted(prompts, key=by_home)),
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
            sequence.output.append(token)
            sequence.finish_reason = _finish_reason(sequence, sequence.id in event.stopped)
            if sequence.finish_reason is None:
                sequence.phase = Phase.READY
                self._ready.append(sequence)
            else:
                finished.append(sequence)
        return self._finish(finished)

    def _finish(self, sequences: list[Sequence]) -> list[Command]:
        freed: dict[int, list[int]] = {}
        for sequence in sequences:
            self._lengths.ended(sequence)
            freed.setdefault(self._forget(sequence), []).append(sequence.id)
            sequence.phase = Phase.FINISHED
        releases = [Release(home, tuple(ids)) for home, ids in freed.items()]
        return [*releases, *(Finish(sequence) for sequence in sequences)]

    def _lose(self, home: int) -> list[Command]:
        """Abort the batches that stand on ``home`` and let its sequences begin again elsewhere."""
        aborted = [b for b in self._batches.values() if any(s.home == home for s in b.spans)]
        commands: list[Command] = []
        for batch in aborted:
            commands.append(Abort(batch))
            commands += self._undo(batch, home)
        for sequence in list(self._living[home].values()):
            if sequence.phase is Phase.READY:
                self._ready.remove(sequence)
            self._requeue(sequence)
        del self._living[home], self._rooms[home]
        return commands

    def _undo(self, batch: Batch, lost: int) -> Iterable[Command]:
        """Rows at other homes step again, which is harmless: KV is addressed by position."""
        del self._batches[batch.id]
        for span in batch.spans:
            sequence = span.sequence
            if span.home == lost:
                continue
            if span.is_decode:
                sequence.phase = Phase.READY
                self._ready.append(sequence)
            else:
                yield self._requeue(sequence)

    def validate(self) -> None:
        """Every sequence is in one place and every page is accounted for. For tests."""
        for room in self._rooms.values():
            room.validate()
        stepping = [span.sequence.id for b in self._batches.values() for span in b.spans]
        ready = [sequence.id for sequence in self._ready]
        waiting = [sequence.id for sequence in self.waiting]
        everywhere = stepping + ready + waiting
        assert len(everywhere) == len(set(everywhere))
        living = {id for home in self._living.values() for id in home}
        assert living == set(stepping + ready)
        assert len(self._batches) <= self.limits.batches_in_flight
        for home, sequences in self._living.items():
            assert self._rooms[home].pages.keys() == sequences.keys()
            assert all(sequence.home == home for sequence in sequences.values())


def _finish_reason(sequence: Sequence, stopped: bool) -> FinishReason | None:
    """Why ``sequence`` ends with its newest token, or None. A stop beats running out of length."""
    if len(sequence.output) >= sequence.request.params.min_tokens and (
        stopped or sequence.output[-1] in sequence.request.stop_ids
    ):
        return FinishReason.STOP
    return FinishReason.LENGTH if sequence.remaining <= 0 else None
