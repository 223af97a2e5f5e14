"""``glinthawk bench``."""

from typing import Annotated

import typer

from glinthawk.bench.job_kinds import KindName
from glinthawk.cli.help_text import HelpfulCommand, HelpfulGroup
from glinthawk.cli.options import spread

__all__ = ["attention", "bench", "dense", "job", "link", "tiers"]

_Quick = Annotated[bool, typer.Option("--quick", help="A look in a minute.")]
_Sampled = Annotated[
    bool, typer.Option("--sampled", help="At temperature 0.8 and top-p 0.95, in place of greedy.")
]

bench = typer.Typer(
    cls=HelpfulGroup,
    help="Measure this machine: the ceiling first, then what is reached, then one JSON line.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@bench.command(cls=HelpfulCommand)
@spread
def attention(quick: _Quick = False) -> None:
    """Tier-2 attention against the speed of memory."""
    from glinthawk.bench.attention import run

    run(typer.echo, quick=quick)


@bench.command(cls=HelpfulCommand)
@spread
def dense(quick: _Quick = False) -> None:
    """Tier 1's dense step against its linear layers alone."""
    from glinthawk.bench.dense import run

    run(typer.echo, quick=quick)


@bench.command(cls=HelpfulCommand)
@spread
def tiers(quick: _Quick = False, sampled: _Sampled = False) -> None:
    """Two tiers against one where KV memory is scarce."""
    from glinthawk.bench.tiers import run

    run(typer.echo, quick=quick, sampled=sampled)


@bench.command(cls=HelpfulCommand)
@spread
def job(
    quick: _Quick = False,
    sampled: _Sampled = False,
    lengths: Annotated[
        KindName,
        typer.Option(
            help="32 + 224 tokens; 2,000 + 300; 500 + 1,500; or as ShareGPT's conversations."
        ),
    ] = "even",
    requests: Annotated[int | None, typer.Option(help="Requests of the job.")] = None,
) -> None:
    """A whole job on one tier, on two, and on both at once, where KV memory is scarce."""
    from glinthawk.bench.whole_job import run

    run(typer.echo, quick=quick, lengths=lengths, requests=requests, sampled=sampled)


@bench.command(cls=HelpfulCommand)
@spread
def link(quick: _Quick = False) -> None:
    """The wire between the tiers against a bare socket, on this machine alone."""
    from glinthawk.bench.transports import run

    run(typer.echo, quick=quick)
