"""Costs where everything stands for several of its kind: fewer steps to simulate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glinthawk.core.plan import Plan
from glinthawk.core.shape import ModelShape
from glinthawk.planner.costs import LinkCost, SliceCosts

__all__ = ["Bunched", "bunch"]


@dataclass(frozen=True, slots=True)
class Bunched:
    """``SliceCosts`` of ``size`` sequences for each one that is simulated."""

    costs: SliceCosts
    size: int

    @property
    def shape(self) -> ModelShape:
        return self.costs.shape

    @property
    def kv_dtype(self) -> str:
        return self.costs.kv_dtype

    @property
    def link(self) -> LinkCost:
        """As long, and so many times narrower."""
        link = self.costs.link
        return LinkCost(link.latency_s, link.bytes_per_s / self.size)

    def dense_s(self, rows: int, logits: int) -> float:
        return self.costs.dense_s(self.size * rows, self.size * logits)

    def prompt_s(self, lengths: Sequence[int]) -> float:
        return self.size * self.costs.prompt_s(lengths)

    def near_s(self, rows: int, kv_tokens: int) -> float:
        return self.costs.near_s(self.size * rows, self.size * kv_tokens)

    def far_s(self, rows: int, kv_tokens: int) -> float:
        return self.costs.far_s(self.size * rows, self.size * kv_tokens)

    def store_s(self, tokens: int) -> float:
        return self.costs.store_s(self.size * tokens)

    def drive_s(self, rows: int, read_tokens: float, written_tokens: float) -> float:
        size = self.size
        return self.costs.drive_s(size * rows, size * read_tokens, size * written_tokens)

    def rebuild_s(self, tokens: int) -> float:
        return self.costs.rebuild_s(self.size * tokens)

    def parcel_s(self, rows: int, prompt_tokens: int) -> float:
        return self.costs.parcel_s(self.size * rows, self.size * prompt_tokens)

    def step_s(self, spans: int) -> float:
        return self.costs.step_s(self.size * spans)


def bunch(plan: Plan, costs: Sequence[SliceCosts], size: int) -> tuple[Plan, Sequence[SliceCosts]]:
    """A plan for so many times fewer sequences with the same seconds."""
    if size == 1:
        return plan, costs
    small = replace(
        plan,
        batch_size=plan.batch_size // size,
        batch_tokens=max(1, plan.batch_tokens // size),
        tier1_kv=plan.tier1_kv // size,
        worker_kv=plan.worker_kv // size,
        worker_storage=plan.worker_storage // size,
    )
    known: dict[int, SliceCosts] = {id(one): Bunched(one, size) for one in costs}
    return small, [known[id(one)] for one in costs]
