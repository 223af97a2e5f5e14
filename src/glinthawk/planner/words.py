"""Plans in words."""

from glinthawk.core.plan import Plan

__all__ = ["layout_of"]


def layout_of(plan: Plan) -> str:
    """
    >>> # 9 x T4 + 27 x rome-16; without machines: Tier 1 + 1 worker
    """
    workers = plan.slices * plan.workers_per_slice
    near = plan.tier1_machine or "Tier 1"
    text = f"{plan.slices} x {near}" if plan.tier1_machine or plan.slices > 1 else near
    return f"{text} + {workers} x {plan.tier2_machine or 'worker'}" if workers else text
