"""``glinthawk``: how it begins, and how errors become exit statuses."""

import sys
from typing import Annotated

import typer

from glinthawk import __version__
from glinthawk.cli.command_table import Commands
from glinthawk.cli.options import name_options
from glinthawk.core.errors import GlinthawkError

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Commands,
    help="Offline LLM inference on two tiers: weights on accelerators, KV cache and attention on "
    "cheap memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"glinthawk {__version__}")
        raise typer.Exit


@app.callback()
def _begin(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which one this is.", callback=_say_version),
    ] = False,
) -> None:
    """Options that stand before any command."""


def main(commands: typer.Typer = app) -> None:
    """Run a command. Status 2 and one line on standard error if it could not run."""
    try:
        commands()
    except GlinthawkError as error:
        sys.stderr.write(f"glinthawk: {name_options(' '.join(str(error).split()))}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("glinthawk: stopped\n")
        sys.exit(130)
