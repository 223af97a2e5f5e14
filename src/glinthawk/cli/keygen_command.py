"""``glinthawk keygen``."""

from pathlib import Path
from typing import Annotated

import typer

from glinthawk.cli.options import spread

__all__ = ["keygen"]


@spread
def keygen(
    identity: Annotated[
        Path | None, typer.Option(help="File of the key pair. Default: one for each user.")
    ] = None,
) -> None:
    """Print this user's public key; make the key pair first if there is none."""
    from glinthawk.wire.keys import Identity

    typer.echo(Identity.load(identity).public)
