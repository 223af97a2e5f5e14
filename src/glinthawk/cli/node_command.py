"""``glinthawk node``."""

from contextlib import suppress
from typing import Annotated

import typer

from glinthawk.cli.listening import Listen, ServerOptions, listen_on, open_lifeline
from glinthawk.cli.options import spread

__all__ = ["node"]


@spread
def node(
    *,
    listen: Listen = "tcp://127.0.0.1:7000",
    threads: Annotated[
        int, typer.Option(help="Cores for the node and the workers it starts; 0: all.")
    ] = 0,
    options: ServerOptions,
) -> None:
    """Serve as a Tier-1 node: hold a slice of a model's layers, run its batches.

    The engine, and the node before this one in the pipeline, must be allowed to connect.
    """
    from glinthawk.engine.pipeline_node import serve_node
    from glinthawk.wire.channel import LARGEST_FRAME

    watched = open_lifeline(options.lifeline)
    with (
        listen_on(listen, options, largest_frame=LARGEST_FRAME) as channel,
        suppress(KeyboardInterrupt),
    ):
        serve_node(channel, options.identity, threads or None, lifeline=watched)
