"""A search as one page for a browser, with plots: nothing is loaded from anywhere."""

from collections.abc import Iterable
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import get_args

from glinthawk.core.units import format_size
from glinthawk.planner.catalogue import Machine
from glinthawk.planner.estimate import Binding
from glinthawk.planner.machine_layouts import STORAGE_RESERVE, TIER1_RESERVE, WORKER_RESERVE
from glinthawk.planner.plan_text import dollars, kv_of, layout_of, number
from glinthawk.planner.plots import COLOURS, Axes, Bar, Point, bars, dots
from glinthawk.planner.search import Candidate, Found, Rank, Search
from glinthawk.planner.timeline import Timeline, record_timeline
from glinthawk.planner.workload import Workload

__all__ = ["render_report", "write_report"]

_BINDINGS = get_args(Binding)
_TITLES = (
    *("layout", "batch", "in flight", "KV", "estimated tokens/s", "simulated tokens/s"),
    *("$/h", "$ a million", "binds", "Tier\u00a01", "workers", "drives"),
)
#: A timeline's batches take them in turn.
_LANE_COLOURS = COLOURS[:6]


def write_report(
    path: Path, found: Found, search: Search, workload: Workload, rank: Rank, source: str
) -> None:
    """Raises OSError."""
    path.write_text(render_report(found, search, workload, rank, source))


def render_report(found: Found, search: Search, workload: Workload, rank: Rank, source: str) -> str:
    """The page."""
    best = found.best[0]
    name = f"{best.plan.model}, {workload.name}"
    parts = [
        f"<h1>{escape(name)}</h1>",
        f"<p>{found.num_plans:,} plans of {len(found.layouts)} layouts, ranked by {rank}; "
        f"<strong>{escape(source)}</strong>.</p>",
        "<h2>The best plans</h2>",
        _table(found),
        *_below(found),
        *_batches_figure(best, search),
        *_cost_figure(found, best),
        *_figure(
            "Both tiers at work",
            _timeline(record_timeline(best, workload)),
            "<p>Simulated, in the long run. Colours are batches in flight, "
            f"{len(_LANE_COLOURS)} in turn, and have nothing to do with those above. Of many "
            "slices and workers the first few are shown.</p>",
        ),
        "<h2>Assumptions</h2>",
        _assumptions(best, workload, source),
    ]
    style = (files("glinthawk.planner") / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Plan: {escape(name)}</title><style>{style}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _figure(title: str, svg: str, below: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", f'<figure class="wide">{svg}</figure>', below]


def _table(found: Found) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in _TITLES)
    rows = "".join(f"<tr>{_row(one)}</tr>" for one in found.best)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _row(one: Candidate) -> str:
    plan, estimate = one.plan, one.estimate
    cells = [
        str(plan.batch_size),
        str(plan.batches_in_flight),
        kv_of(plan),
        number(estimate.tokens_per_s),
        number(one.tokens_per_s) if one.steady else "-",
        dollars(one.dollars_per_hour),
        dollars(one.dollars_per_million),
        estimate.binds,
        f"{estimate.tier1_busy:.0%}",
        f"{estimate.worker_busy:.0%}" if plan.workers_per_slice else "-",
        f"{estimate.drives_busy:.0%}" if plan.worker_storage else "-",
    ]
    head = f'<th scope="row">{escape(layout_of(plan))}</th>'
    return head + "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _below(found: Found) -> Iterable[str]:
    """What the table leaves open."""
    yield (
        "<p>Dollars are of the simulated speed, or of the estimate where a simulation would take "
        "long. The last columns say how busy each is, estimated.</p>"
    )
    yield from (f"<p>{escape(note)}.</p>" for note in found.best[0].notes)
    if found.dropped:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in found.dropped.most_common())
        yield f"<p>Dropped: {escape(reasons)}.</p>"


def _colour(binds: str) -> str:
    return COLOURS[_BINDINGS.index(binds)]


def _legend(says: str, bindings: Iterable[str]) -> str:
    """Of those that are there."""
    there = set(bindings)
    entries = "".join(
        f'<li><span style="background: {_colour(one)}"></span>{escape(one)}</li>'
        for one in _BINDINGS
        if one in there
    )
    return f'<p>{escape(says)} What binds:</p><ul class="legend">{entries}</ul>'


def _batches_figure(best: Candidate, search: Search) -> list[str]:
    """As many in flight as the best plan has, batches of all sizes."""
    plan = best.plan
    alike = {
        one.plan.batch_size: one.estimate
        for one in search.rate(best.rig, plan.workers_per_slice)
        if replace(one.plan, batch_size=plan.batch_size, xcache=plan.xcache) == plan
        and bool(one.plan.xcache) == bool(plan.xcache)
    }
    points = [
        Point(
            size,
            one.tokens_per_s,
            _colour(one.binds),
            f"batch {size}: {number(one.tokens_per_s)} tokens/s, {one.binds} binds",
        )
        for size, one in sorted(alike.items())
    ]
    axes = Axes("Throughput over batch size", "batch size", "tokens/s", is_log=True)
    says = f"Estimated, with {plan.batches_in_flight} batches in flight; the ring is the best plan."
    below = _legend(says, (one.binds for one in alike.values()))
    return _figure(axes.title, dots(axes, points, ringed=plan.batch_size), below)


def _cost_figure(found: Found, best: Candidate) -> list[str]:
    """The same Tier 1 with different numbers of workers."""
    alike: dict[int, Candidate] = {}
    for one in found.layouts:  # best first
        plan = one.plan
        same = plan.tier1_machine == best.plan.tier1_machine and plan.slices == best.plan.slices
        if same and one.dollars_per_hour is not None:
            alike.setdefault(plan.workers_per_slice * plan.slices, one)
    if len(alike) < 2:
        return []
    points = [
        Point(
            workers,
            one.dollars_per_million or 0.0,
            _colour(one.estimate.binds),
            f"{layout_of(one.plan)}: {dollars(one.dollars_per_million)} $ a million, "
            f"{number(one.estimate.tokens_per_s)} tokens/s",
        )
        for workers, one in sorted(alike.items())
    ]
    axes = Axes("Cost over number of workers", "Tier-2 machines", "$ a million tokens")
    near = f"{best.plan.slices} x {best.plan.tier1_machine}"
    says = f"Estimated, for {near}; the ring is the best plan when simulated."
    below = _legend(says, (one.estimate.binds for one in alike.values()))
    ringed = best.plan.workers_per_slice * best.plan.slices
    return _figure(axes.title, dots(axes, points, ringed=ringed), below)


def _timeline(timeline: Timeline) -> str:
    lanes = timeline.lanes
    shown = [
        Bar(
            lanes.index(one.process),
            1e3 * one.begin,
            1e3 * one.seconds,
            _LANE_COLOURS[one.lane % len(_LANE_COLOURS)],
            f"{one.process}, batch {one.lane}, {one.name}: {number(1e3 * one.seconds)} ms",
        )
        for one in timeline.intervals
    ]
    return bars("Timeline of both tiers", lanes, shown, 1e3 * timeline.seconds)


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
