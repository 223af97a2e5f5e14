"""A running server that answers the lines of ``glinthawk run``."""

from dataclasses import dataclass
from typing import Annotated

import typer

from glinthawk.cli.serve_options import API_KEY_VARIABLE

__all__ = ["RemoteOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """Beside those of files and of the job."""

    server: Annotated[
        str | None,
        typer.Option(
            help="Hand the lines in to this `glinthawk serve`, follow them and fetch the results; "
            "model and engine are the server's.",
            metavar="URL",
        ),
    ] = None
    api_key: Annotated[
        str | None,
        typer.Option(help="Key for --server. Default: GLINTHAWK_API_KEY.", envvar=API_KEY_VARIABLE),
    ] = None
    completion_window: Annotated[
        str,
        typer.Option(
            help="With --server: time until the answers are wanted, like 90m, 24h or 7d; the "
            "nearest deadline goes first.",
            metavar="TIME",
        ),
    ] = "24h"
