"""``glinthawk node``."""

from contextlib import suppress
from typing import Annotated

import typer

from glinthawk.cli.listening import (
    WINDOW,
    Allow,
    IdentityFile,
    Lifeline,
    Listen,
    PasswordFile,
    Quiet,
    Window,
    listen_on,
    open_lifeline,
)

__all__ = ["node"]


def node(
    listen: Listen = "tcp://127.0.0.1:7000",
    threads: Annotated[
        int, typer.Option(help="Cores for the node and the workers it starts; 0: all.")
    ] = 0,
    allow: Allow = None,
    identity: IdentityFile = None,
    password_file: PasswordFile = None,
    window: Window = WINDOW,
    quiet: Quiet = False,
    lifeline: Lifeline = False,
) -> None:
    """Serve as a Tier-1 node: hold a slice of a model's layers, run its batches.

    The engine, and the node before this one in the pipeline, must be allowed to connect.
    """
    from glinthawk.engine.pipeline_node import serve_node
    from glinthawk.wire.channel import LARGEST_FRAME

    watched = open_lifeline(lifeline)
    with (
        listen_on(
            listen,
            allow,
            identity,
            password_file,
            largest_frame=LARGEST_FRAME,
            window=window,
            lifeline=lifeline,
            quiet=quiet,
        ) as channel,
        suppress(KeyboardInterrupt),
    ):
        serve_node(channel, identity, threads or None, lifeline=watched)
