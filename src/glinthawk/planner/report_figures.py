"""The report's figures: plots with what they say below them."""

from collections.abc import Iterable
from dataclasses import replace
from html import escape
from typing import get_args

from glinthawk.planner.estimate import Binding
from glinthawk.planner.plan_text import dollars, kv_of, layout_of, number
from glinthawk.planner.plots import COLOURS, Axes, Bar, Point, bars, dots
from glinthawk.planner.search import Candidate, Found, Search
from glinthawk.planner.timeline import Timeline

__all__ = ["batches_figure", "cost_figure", "price_figure", "timeline_figure"]

_BINDINGS = get_args(Binding)
#: A timeline's batches take them in turn.
_LANE_COLOURS = COLOURS[:6]


def _figure(title: str, svg: str, below: str) -> list[str]:
    return [f"<figure><h2>{escape(title)}</h2>{svg}{below}</figure>"]


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


def batches_figure(best: Candidate, search: Search) -> list[str]:
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


def price_figure(found: Found, best: Candidate) -> list[str]:
    """Every layout: what is cheap, what is fast."""
    layouts = [one for one in found.layouts if one.dollars_per_million is not None]
    if len(layouts) < 2:
        return []
    points = [
        Point(
            one.estimate.tokens_per_s,
            one.dollars_per_million or 0.0,
            _colour(one.estimate.binds),
            f"{layout_of(one.plan)}, {kv_of(one.plan)}: {dollars(one.dollars_per_million)} $ a "
            f"million, {number(one.estimate.tokens_per_s)} tokens/s",
        )
        for one in sorted(layouts, key=lambda one: one.estimate.tokens_per_s)
    ]
    axes = Axes("Cost against speed", "tokens/s", "$ a million tokens", is_line=False)
    says = "Estimated, the best plan of each layout; the ring is the best when simulated."
    below = _legend(says, (one.estimate.binds for one in layouts))
    return _figure(axes.title, dots(axes, points, ringed=best.estimate.tokens_per_s), below)


def cost_figure(found: Found, best: Candidate) -> list[str]:
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


def timeline_figure(timeline: Timeline, best: Candidate) -> list[str]:
    svg = _timeline(timeline)
    return [
        "<h2>Both tiers at work</h2>",
        '<p class="hint">The timeline is wider than this: scroll it sideways.</p>',
        '<figure class="wide timeline" role="region" aria-label="Both tiers at work" tabindex="0">'
        f"{svg}</figure>",
        '<p class="quiet">Simulated, in the long run. Colours are batches in flight, '
        f"{len(_LANE_COLOURS)} in turn, and have nothing to do with those above. Of many slices "
        "and workers the first few are shown.</p>",
        *_busy_table(timeline, best),
    ]


def _busy_table(timeline: Timeline, best: Candidate) -> Iterable[str]:
    """An estimate overlaps all as well as it can, and a simulation shows what is left of that."""
    estimate = best.estimate
    rows = [
        ("Tier 1", estimate.tier1_busy, timeline.busy("tier 1")),
        ("workers", estimate.worker_busy, timeline.busy("worker")),
        ("drives", estimate.drives_busy, timeline.busy("drives")),
    ]
    cells = "".join(
        f'<tr><th scope="row">{name}</th><td>{guess:.0%}</td><td>{seen:.0%}</td></tr>'
        for name, guess, seen in rows
        if seen is not None
    )
    yield (
        '<table class="busy"><thead><tr><th scope="col">busy, the busiest of each</th>'
        '<th scope="col">estimated</th><th scope="col">in this timeline</th></tr></thead>'
        f"<tbody>{cells}</tbody></table>"
        '<p class="quiet">The estimate takes everything at its average and lets all overlap as '
        "well as it can; the simulation runs the scheduler, where batches differ and wait for one "
        "another. So the simulated speed is lower, and what is busy all the time in the estimate "
        "has gaps here.</p>"
    )


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
