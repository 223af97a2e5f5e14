"""``glinthawk bench``."""

from typing import Annotated

import typer

__all__ = ["attention", "bench", "dense", "job", "tiers"]

_Quick = Annotated[bool, typer.Option("--quick", help="A look in a minute.")]
_Sampled = Annotated[
    bool, typer.Option("--sampled", help="At temperature 0.8 and top-p 0.95, in place of greedy.")
]

bench = typer.Typer(
    help="Measure this machine: the ceiling first, then what is reached, then one JSON line.",
    no_args_is_help=True,
)


@bench.command()
def attention(quick: _Quick = False) -> None:
    """Tier-2 attention against the speed of memory."""
    from glinthawk.bench.attention import run

    run(typer.echo, quick=quick)


@bench.command()
def dense(quick: _Quick = False) -> None:
    """Tier 1's dense step against its linear layers alone."""
    from glinthawk.bench.dense import run

    run(typer.echo, quick=quick)


@bench.command()
def tiers(quick: _Quick = False, sampled: _Sampled = False) -> None:
    """Two tiers against one where KV memory is scarce."""
    from glinthawk.bench.tiers import run

    run(typer.echo, quick=quick, sampled=sampled)


@bench.command()
def job(
    quick: _Quick = False,
    sampled: _Sampled = False,
    requests: Annotated[int | None, typer.Option(help="Requests of the job.")] = None,
) -> None:
    """A whole job on one tier, on two, and on both at once, where KV memory is scarce."""
    from glinthawk.bench.whole_job import run

    run(typer.echo, quick=quick, requests=requests, sampled=sampled)
