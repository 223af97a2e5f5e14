"""Plans and figures in words."""

from math import floor, isfinite, log10

from glinthawk.core.plan import Plan
from glinthawk.core.shape import ModelShape
from glinthawk.core.units import format_size

__all__ = ["dollars", "kv_of", "layout_of", "number", "xcache_note"]


def layout_of(plan: Plan) -> str:
    """
    >>> # 9 x T4 + 27 x rome-16; without machines: Tier 1 + 1 worker
    """
    workers = plan.slices * plan.workers_per_slice
    near = plan.tier1_machine or "Tier 1"
    text = f"{plan.slices} x {near}" if plan.tier1_machine or plan.slices > 1 else near
    return f"{text} + {workers} x {plan.tier2_machine or 'worker'}" if workers else text


def kv_of(plan: Plan) -> str:
    """Type of the KV cache, whether both tiers keep it, and the drives of each worker.

    >>> # bfloat16; int8 (both); bfloat16 + 15.7TiB NVMe
    """
    both = " (both)" if plan.tier1_kv and plan.workers_per_slice else ""
    drives = format_size(plan.worker_storage).replace(" ", "")
    return plan.kv_dtype + both + (f" + {drives} NVMe" if plan.worker_storage else "")


def xcache_note(plan: Plan, shape: ModelShape, is_host_known: bool) -> str:
    """Whether Tier 1 makes keys and values again, and why not."""
    ratio, attention = shape.inputs_over_kv(plan.kv_dtype), shape.attention[0]
    if plan.xcache:
        return (
            f"--xcache {plan.xcache:g}: Tier 1 makes that share of keys and values again from "
            f"layer inputs, {number(ratio)} times their size, while workers attend to the rest"
        )
    if ratio >= 1:
        group = attention.num_heads // attention.num_kv_heads
        return (
            f"--xcache is off: layer inputs are {number(ratio)} times as large as keys and values "
            f"in {plan.kv_dtype} (query heads for each KV head: {group}); memory for them would "
            "hold more as KV"
        )
    if plan.slices > 1:
        return "--xcache is off: nodes of a cluster keep no layer inputs"
    if not is_host_known:
        return "--xcache is off: the catalogue has no host_memory and host_bandwidth of Tier 1"
    return "--xcache is off: making keys and values again would not be faster here"


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
