"""Where every sequence is: waiting, at rest at a home, or part of a batch in flight."""

from collections import Counter, OrderedDict
from collections.abc import Iterable

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sequence import Phase, Sequence
from glinthawk.scheduler.commands import Release
from glinthawk.scheduler.kv_budget import KVBudget
from glinthawk.scheduler.request_queue import RequestQueue

__all__ = ["SequenceTable"]


class SequenceTable:
    """Moves sequences from one state to the next, and keeps the sums of their homes true."""

    def __init__(self, page_tokens: int) -> None:
        self.waiting = RequestQueue(page_tokens)
        #: Longest rested first; in a form in which one in the middle is found at once.
        self.ready: OrderedDict[Sequence, None] = OrderedDict()
        #: Those that rest between two chunks of their prompts.
        self.chunked: dict[Sequence, None] = {}
        #: Of the homes that are there.
        self.budgets: dict[int, KVBudget] = {}
        #: Sequences of batches in flight, at each home.
        self.num_stepping: Counter[int] = Counter()

    @property
    def num_living(self) -> int:
        """Sequences that hold KV."""
        return sum(len(budget.living) for budget in self.budgets.values())

    def step(self, sequence: Sequence, start: int, most: int, source: int | None = None) -> Span:
        """Its part of a batch: tokens from ``start`` on, ``most`` at most."""
        home, left = _home(sequence), sequence.length - start
        self.chunked.pop(sequence, None)
        sequence.phase = Phase.STEPPING
        self.num_stepping[home] += 1
        length = min(left, most)
        is_sampled = left <= most and sequence.request.max_tokens > 0
        num_scored = sequence.count_unscored(start, length)
        num_pooled = sequence.count_unpooled(start, length)
        return Span(sequence, home, start, length, source, int(is_sampled), num_scored, num_pooled)

    def end_step(self, home: int) -> None:
        """One that lives there has stepped, or its batch was aborted."""
        self.num_stepping[home] -= 1

    def rest(self, sequence: Sequence) -> None:
        """It can take its next decode step, or chunk, after all that rest already."""
        sequence.phase = Phase.READY
        is_whole = sequence.num_computed >= sequence.length - 1
        (self.ready if is_whole else self.chunked)[sequence] = None

    def pass_over(self, sequences: list[Sequence]) -> None:
        """They were at the front, and stay there; but for those that were pre-empted meanwhile."""
        for sequence in reversed(sequences):
            if sequence.phase is Phase.READY:
                self.ready[sequence] = None
                self.ready.move_to_end(sequence, last=False)

    def requeue(self, sequence: Sequence) -> Release:
        """Back to waiting, without KV."""
        self.ready.pop(sequence, None)
        self.chunked.pop(sequence, None)
        home = self.forget(sequence)
        sequence.phase, sequence.home, sequence.num_computed = Phase.WAITING, None, 0
        self.waiting.push(sequence)
        return Release(home, (sequence.id,))

    def forget(self, sequence: Sequence) -> int:
        """Take its pages back; returns the home that held them."""
        home = _home(sequence)
        self.budgets[home].forget(sequence)
        return home

    def finish(self, sequences: Iterable[Sequence]) -> list[Release]:
        """They have their answers. KV stays where others that wait begin alike."""
        unused: list[Sequence] = []
        for sequence in sequences:
            sequence.phase = Phase.FINISHED
            if self.waiting.has_alike(sequence):
                self.budgets[_home(sequence)].keep(sequence)
            else:
                unused.append(sequence)
        return self._free(unused)

    def withdraw(self, leaving: set[int]) -> list[Release]:
        """Those of ``leaving`` that do not step just now are gone; only the others stay in it."""
        resting = [one for one in (*self.ready, *self.chunked) if one.id in leaving]
        for sequence in (*self.waiting.remove(leaving), *resting):
            self.ready.pop(sequence, None)
            self.chunked.pop(sequence, None)
            sequence.phase = Phase.FINISHED
        freed = self._free(resting)
        leaving &= {number for budget in self.budgets.values() for number in budget.living}
        return freed

    def _free(self, sequences: Iterable[Sequence]) -> list[Release]:
        """Forget them, home by home."""
        freed: dict[int, list[int]] = {}
        for sequence in sequences:
            freed.setdefault(self.forget(sequence), []).append(sequence.id)
        return [Release(home, tuple(ids)) for home, ids in freed.items()]

    def leave(self, home: int) -> list[Release]:
        """The home is to be emptied: those that rest there begin again elsewhere, with the tokens
        they have; the others when they have stepped (``settle``)."""
        self.budgets[home].is_leaving = True
        living = [*self.budgets[home].living.values()]
        return [self.requeue(one) for one in living if one.phase is Phase.READY]

    def settle(self, sequence: Sequence) -> Release | None:
        """It has stepped, and rests, or begins again where its home is to be emptied."""
        if self.budgets[_home(sequence)].is_leaving:
            return self.requeue(sequence)
        self.rest(sequence)
        return None

    def dismiss(self) -> list[int]:
        """Homes that are empty now and were to be; they are no more."""
        homes = [home for home, one in self.budgets.items() if one.is_leaving and not one.living]
        for home in homes:
            del self.budgets[home], self.num_stepping[home]
        return homes

    def lose(self, home: int) -> None:
        """The home is gone; its sequences begin again elsewhere."""
        for sequence in list(self.budgets[home].living.values()):
            self.requeue(sequence)
        del self.budgets[home], self.num_stepping[home]

    def validate(self, batches: Iterable[Batch]) -> None:
        """Every sequence is in one place and every page is accounted for. For tests."""
        for budget in self.budgets.values():
            budget.validate()
        spans = [span for batch in batches for span in batch.spans]
        stepping = [span.sequence.id for span in spans]
        ready = [sequence.id for sequence in (*self.ready, *self.chunked)]
        everywhere = stepping + ready + [sequence.id for sequence in self.waiting]
        assert len(everywhere) == len(set(everywhere))
        living = {id for budget in self.budgets.values() for id in budget.living}
        assert living == set(stepping + ready)
        assert +self.num_stepping == Counter(span.home for span in spans)
        for home, budget in self.budgets.items():
            assert all(sequence.home == home for sequence in budget.living.values())


def _home(sequence: Sequence) -> int:
    assert sequence.home is not None
    return sequence.home
