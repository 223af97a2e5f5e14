"""KV on two tiers at once: how many rows at workers help, so that they never slow Tier 1's own."""

from collections.abc import Iterator, Mapping

from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.kv_budget import KVBudget
from glinthawk.scheduler.step_cost import TIER1, RowLoad, StepCost

__all__ = ["OffloadPolicy"]


class OffloadPolicy:
    """Advises the scheduler once the cost of a step is known; before that, workers are used without
    limit."""

    def __init__(self, budgets: Mapping[int, KVBudget], batch_size: int, in_flight: int) -> None:
        self._budgets = budgets
        self._most_rows = batch_size * in_flight
        self._in_flight = in_flight
        self.step_cost: StepCost | None = None

    @property
    def in_flight(self) -> int:
        """Batches to have under way: one, while Tier 1 keeps all KV and nothing is to be hidden."""
        return 1 if self._is_on and not self._num_far() else self._in_flight

    def pays(self, sequence: Sequence, num_waiting: int) -> bool:
        """Whether to begin ``sequence`` at a worker. One that Tier 1 can never hold must."""
        if not self._is_on:
            return True
        assert self.step_cost is not None
        near, longest = self._budgets[TIER1], sequence.length + sequence.remaining
        if longest > near.pages.num_tokens:
            return True
        far = self._num_far() + num_waiting
        length = sequence.length + sequence.remaining / 2
        most = min(far, self._far_room(longest), self._most_rows - len(near.living))
        return self.step_cost.workers_pay(
            self._full_load(near, longest, most, length), self._in_flight
        )

    def seconds_of_token(self, home: int) -> float | None:
        """To attend to a token there, if that is known of all workers."""
        workers = [other for other in self._budgets if other != TIER1]
        if self.step_cost is None or not all(
            self.step_cost.attend_s.get(other) for other in workers
        ):
            return None
        return self.step_cost.attend_s.get(home)

    def far_rows_a_batch(self) -> int | None:
        """Rows at each worker that one batch should take, at least 1; None: no limit."""
        living = self._num_far()
        if not self._is_on or not living or not self._budgets[TIER1].living:
            return None
        assert self.step_cost is not None
        length = sum(budget.num_living_tokens for budget in self._far_budgets()) / living
        best = self.step_cost.best_far_rows(self._load(living, length), self._in_flight)
        return max(1, -(-best // (self._in_flight * (len(self._budgets) - 1))))

    @property
    def _is_on(self) -> bool:
        return self.step_cost is not None and TIER1 in self._budgets and len(self._budgets) > 1

    def _far_budgets(self) -> Iterator[KVBudget]:
        return (budget for home, budget in self._budgets.items() if home != TIER1)

    def _num_far(self) -> int:
        """Sequences that live at workers."""
        return sum(len(budget.living) for budget in self._far_budgets())

    def _far_room(self, length: int) -> int:
        """Sequences of this length that the workers hold together."""
        return sum(budget.pages.num_tokens // length for budget in self._far_budgets())

    def _full_load(self, near: KVBudget, longest: int, far_rows: int, far_length: float) -> RowLoad:
        """With as many rows on Tier 1 as it holds, though one that has ended may just be missing:
        what begins at a worker stays there for long."""
        load = self._load(far_rows, far_length)
        rows = max(load.near_rows, near.pages.num_tokens // longest)
        tokens = load.near_tokens * rows // load.near_rows if load.near_rows else 0
        return RowLoad(rows, tokens, far_rows, far_length)

    def _load(self, far_rows: int, far_length: float) -> RowLoad:
        near = self._budgets[TIER1]
        return RowLoad(len(near.living), near.num_living_tokens, far_rows, far_length)
