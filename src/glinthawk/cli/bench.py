"""``glinthawk bench``."""

from typing import Annotated

import typer

__all__ = ["attention", "bench"]

bench = typer.Typer(
    help="Measure this machine: the ceiling first, then what is reached, then one JSON line.",
    no_args_is_help=True,
)


@bench.callback()
def _group() -> None:
    """A group of commands, though there is one."""


@bench.command()
def attention(
    quick: Annotated[bool, typer.Option("--quick", help="A look in a minute.")] = False,
) -> None:
    """Tier-2 attention against the speed of memory."""
    from glinthawk.bench.attention import run

    run(typer.echo, quick=quick)
