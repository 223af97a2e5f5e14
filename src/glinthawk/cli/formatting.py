"""What a search found, as a table and a few sentences."""

from rich.console import Console
from rich.table import Table

from glinthawk.planner.plan_text import dollars, kv_of, layout_of
from glinthawk.planner.search import Candidate, Found, Rank
from glinthawk.planner.verdict import compare_tiers, dollars_of

__all__ = ["show"]

_WIDTH = 150


def show(found: Found, rank: Rank, source: str) -> None:
    """Print it; tokens/s are estimated, and dollars are of the simulated ones."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.num_plans:,} plans of {len(found.layouts)} layouts, tokens/s; {source}")
    # A pipe has no width: rich would cut the table to 80 columns.
    Console(highlight=False, width=max(_WIDTH, console.width)).print(_table(found))
    if any(one.steady is None for one in found.best):
        console.print(
            "-: it would take long to simulate; ~: dollars of the estimate, below all others"
        )
    for reason, count in found.dropped.most_common():
        console.print(f"dropped: {reason} ({count})")
    for note in found.best[0].notes:
        console.print(note)
    if verdict := compare_tiers(found, rank):
        console.print(verdict)


def _table(found: Found) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layout", no_wrap=True)
    for title in ("batch", "in flight"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("KV", no_wrap=True)
    for title in ("estimated", "simulated", "$/h", "$/million"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("binds", no_wrap=True)
    for one in found.best:
        table.add_row(*_cells(one))
    return table


def _cells(one: Candidate) -> list[str]:
    plan = one.plan
    return [
        layout_of(plan),
        str(plan.batch_size),
        str(plan.batches_in_flight),
        kv_of(plan),
        f"{one.estimate.tokens_per_s:,.0f}",
        f"{one.tokens_per_s:,.0f}" if one.steady else "-",
        dollars(one.dollars_per_hour),
        dollars_of(one),
        one.estimate.binds,
    ]
