"""A search as one page for a browser, with plots: nothing is loaded from anywhere."""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

from glinthawk.core.units import format_size
from glinthawk.planner.catalogue import Machine
from glinthawk.planner.machine_layouts import STORAGE_RESERVE, TIER1_RESERVE, WORKER_RESERVE
from glinthawk.planner.plan_text import dollars, kv_of, layout_of, number
from glinthawk.planner.report_figures import (
    batches_figure,
    cost_figure,
    price_figure,
    timeline_figure,
)
from glinthawk.planner.search import Candidate, Found, Rank, Search
from glinthawk.planner.timeline import record_timeline
from glinthawk.planner.verdict import best_in_words, compare_tiers, dollars_of
from glinthawk.planner.workload import Workload

__all__ = ["render_report", "write_report"]

#: What decides comes first, where a phone shows it.
_TITLES = (
    *("layout", "$ a million", "simulated tokens/s", "estimated tokens/s", "$/h"),
    *("batches", "KV", "binds"),
)


def write_report(
    path: Path,
    found: Found,
    search: Search,
    workload: Workload,
    rank: Rank,
    source: str,
    command: str,
) -> None:
    """``command`` is the one that made it. Raises OSError."""
    path.write_text(render_report(found, search, workload, rank, source, command))


def render_report(
    found: Found, search: Search, workload: Workload, rank: Rank, source: str, command: str
) -> str:
    """The page."""
    best = found.best[0]
    name = f"{best.plan.model}, {workload.name}"
    timeline = record_timeline(best, workload)
    figures = [
        *price_figure(found, best),
        *batches_figure(best, search),
        *cost_figure(found, best),
    ]
    parts = [
        _verdict(found, rank, source),
        "<h2>The best plans</h2>",
        *_table(found),
        *_below(found),
        f'<div class="figures">{"".join(figures)}</div>',
        *timeline_figure(timeline, best),
        "<h2>Assumptions</h2>",
        _assumptions(best, workload, source),
        f"<h2>The command</h2><pre>{escape(command)}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Plan: {escape(name)}</title><style>{_style()}</style></head>\n"
        f'<body><header><p class="brand">glinthawk plan</p><h1>{escape(name)}</h1></header>'
        f"<main>{''.join(parts)}</main></body></html>\n"
    )


def _style() -> str:
    look = (files("glinthawk.telemetry") / "look.css").read_text()
    return look + (files("glinthawk.planner") / "report.css").read_text()


def _verdict(found: Found, rank: Rank, source: str) -> str:
    """In one sentence, and what it was found among."""
    compared = compare_tiers(found, rank)
    says = best_in_words(found) + (f"; {compared}" if compared else "")
    return (
        f'<div class="statement"><p class="says">{escape(says)}.</p>'
        f'<p class="quiet">The best of {found.num_plans:,} plans of {len(found.layouts)} layouts, '
        f"ranked by {rank}. Speeds: {escape(source)}.</p></div>"
    )


def _table(found: Found) -> list[str]:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in _TITLES)
    rows = "".join(f"<tr>{_row(one)}</tr>" for one in found.best)
    table = f'<table class="plans"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return [
        '<p class="hint">The table has more columns: scroll it sideways.</p>',
        f'<div class="wide" role="region" aria-label="The best plans" tabindex="0">{table}</div>',
    ]


def _row(one: Candidate) -> str:
    plan, estimate = one.plan, one.estimate
    cells = [
        dollars_of(one),
        number(one.tokens_per_s) if one.steady else "-",
        number(estimate.tokens_per_s),
        dollars(one.dollars_per_hour),
        f"{plan.batches_in_flight} of {plan.batch_size}",
        kv_of(plan),
        estimate.binds,
    ]
    head = f'<th scope="row">{escape(layout_of(plan))}</th>'
    return head + "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _below(found: Found) -> Iterable[str]:
    """What the table leaves open."""
    says = "Dollars are for a million generated tokens at the simulated speed"
    if any(one.steady is None for one in found.best):
        says += "; ~ is at the estimated one, where a simulation would take long, and comes last"
    yield f'<p class="quiet">{says}. Batches: so many in flight, of so many sequences at most.</p>'
    yield from (f'<p class="quiet">{escape(note)}.</p>' for note in found.best[0].notes)
    if found.dropped:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in found.dropped.most_common())
        yield f'<p class="quiet">Dropped: {escape(reasons)}.</p>'


def _drives(machine: Machine) -> str:
    if not machine.storage:
        return ""
    reads, writes = machine.reached_storage_reads, machine.reached_storage_writes
    return (
        f", {format_size(machine.storage)} of drives that read {number(reads / 1e9)} and write "
        f"{number(writes / 1e9)} GB/s"
    )


def _assumptions(best: Candidate, workload: Workload, source: str) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in _lines(best, workload, source)) + "</ul>"


def _lines(best: Candidate, workload: Workload, source: str) -> Iterable[str]:
    link = best.rig.costs[0].link
    yield (
        f"Prompts of {number(workload.mean_input)} tokens and answers of "
        f"{number(workload.mean_output)} on average; no prompt has anything in common with another."
    )
    yield "Only generated tokens count in tokens/s and in $ a million."
    latency, bandwidth = number(1e3 * link.latency_s), number(link.bytes_per_s / 1e9)
    yield f"Links: {latency} ms one way, {bandwidth} GB/s."
    for machine in filter(None, (best.rig.tier1, best.rig.tier2)):
        yield (
            f"{escape(machine.name)}: {number(machine.reached_bandwidth / 1e9)} GB/s and "
            f"{number(machine.reached_flops / 1e12)} TFLOP/s reached, "
            f"{dollars(machine.dollars_per_hour)} $/h{_drives(machine)}. {escape(machine.source)} "
            f"({machine.date})."
        )
    if best.rig.tier1:
        yield (
            f"{TIER1_RESERVE:.0%} of Tier 1's memory is left for activations, "
            f"{WORKER_RESERVE:.0%} of a worker's for parcels. What hosts do is not counted."
        )
    if best.plan.worker_storage:
        yield (
            "When memory is full, drives write every new key and value once and read at every step "
            "what memory does not hold, while cores attend; pages not full are in memory. "
            f"{STORAGE_RESERVE:.0%} of the drives is left free."
        )
    yield "KV in int8 is smaller and changes answers a little."
    yield f"Speeds: {escape(source)}."
