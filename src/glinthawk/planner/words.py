"""Plans and figures in words."""

from math import floor, isfinite, log10

from glinthawk.core.plan import Plan

__all__ = ["dollars", "layout_of", "number"]


def layout_of(plan: Plan) -> str:
    """
    >>> # 9 x T4 + 27 x rome-16; without machines: Tier 1 + 1 worker
    """
    workers = plan.slices * plan.workers_per_slice
    near = plan.tier1_machine or "Tier 1"
    text = f"{plan.slices} x {near}" if plan.tier1_machine or plan.slices > 1 else near
    return f"{text} + {workers} x {plan.tier2_machine or 'worker'}" if workers else text


def dollars(value: float | None) -> str:
    """``-`` where no price is known."""
    return "-" if value is None else number(value)


def number(value: float) -> str:
    """Three digits that count.

    >>> number(1234.5), number(1.2345), number(0)
    ('1,230', '1.23', '0')
    """
    if not value or not isfinite(value):
        return f"{value:.0f}"
    digits = 2 - floor(log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"
