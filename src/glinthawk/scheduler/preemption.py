"""Room for one more token at a home, if need be at the cost of others there."""

from collections.abc import Container

from glinthawk.core.sequence import Phase, Sequence
from glinthawk.scheduler.commands import Command, Release
from glinthawk.scheduler.counts import Counts
from glinthawk.scheduler.sequence_table import SequenceTable

__all__ = ["Preemption"]


class Preemption:
    """First KV goes that was kept for its prefix, then that of the youngest sequence at rest, of
    those that may wait longest by their priority; it waits again with all tokens it has."""

    def __init__(self, table: SequenceTable, counts: Counts) -> None:
        self._table, self._counts = table, counts
        #: Of the round: a home's sequences, but for the youngest ones that do not rest.
        self._resting: dict[int, list[Sequence]] = {}

    def begin_round(self) -> None:
        """Sequences may have come to rest; from now on, until the next round, none does."""
        self._resting.clear()

    def make_room(self, sequence: Sequence, commands: list[Command]) -> bool:
        """Room for the newest token of ``sequence``, which rests. False if it has to wait for
        batches in flight, or was the youngest itself; what is freed is added to ``commands``."""
        home = sequence.home
        assert home is not None
        budget = self._table.budgets[home]
        while not budget.pages.grow(sequence.id, sequence.length):
            if self.evict(home, commands):
                continue
            youngest = self._youngest_resting(home)
            if youngest is sequence and self._table.num_stepping[home]:
                return False
            self._counts.preemptions += 1
            commands.append(self._table.requeue(youngest))
            if youngest is sequence:
                return False
        return True

    def evict(self, home: int, commands: list[Command], spare: Container[int | None] = ()) -> bool:
        """Give up KV that was kept for its prefix; False if there is none."""
        evicted = self._table.budgets[home].evict(spare)
        if evicted is not None:
            commands.append(Release(home, (evicted,)))
        return evicted is not None

    def _youngest_resting(self, home: int) -> Sequence:
        """Of those of the greatest priority number. Nobody begins to rest within a round, so what
        was passed over stays so."""
        resting = self._resting.setdefault(home, [])
        if not resting:
            living = self._table.budgets[home].living.values()  # in order of admission
            resting += sorted(living, key=lambda sequence: sequence.request.priority)
        while resting[-1].phase is not Phase.READY:
            resting.pop()
        return resting[-1]
