"""``glinthawk merge``."""

from pathlib import Path
from typing import Annotated

import typer

from glinthawk.cli.outputs import check_output

__all__ = ["merge"]


def merge(
    output: Annotated[
        Path,
        typer.Argument(help="A new file for all results.", callback=check_output),
    ],
    parts: Annotated[
        list[Path],
        typer.Argument(help="Outputs of `glinthawk run --shard`, with OUT.source beside them."),
    ],
) -> None:
    """Join the outputs of shards, and say what is missing.

    Exit status: 0 all results are there; 1 some are missing, repeated or cannot be known to be
    there; 2 the parts do not go together.
    """
    from glinthawk.files.merging import merge_outputs

    merged = merge_outputs(output, parts)
    errors = f"{merged.num_errors or 'none'} of them errors"
    typer.echo(f"{merged.num_results} results, {errors}: {output}", err=True)
    for sentence in merged.missing:
        typer.echo(sentence, err=True)
    raise typer.Exit(1 if merged.missing else 0)
