"""``glinthawk worker``."""

import os
import signal
from contextlib import suppress
from typing import Annotated

import typer

from glinthawk.cli.listening import (
    Allow,
    IdentityFile,
    Lifeline,
    Listen,
    PasswordFile,
    Quiet,
    listen_on,
)
from glinthawk.core.config import Device

__all__ = ["worker"]


def worker(
    listen: Listen = "tcp://127.0.0.1:7001",
    kv: Annotated[str, typer.Option(help="Memory for the KV cache, like 4GiB.")] = "4GiB",
    device: Annotated[
        Device,
        typer.Option(help="Where the KV cache lies and attention runs; auto: a GPU if any."),
    ] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads for attention on a CPU; 0: all cores.")] = 0,
    allow: Allow = None,
    identity: IdentityFile = None,
    password_file: PasswordFile = None,
    quiet: Quiet = False,
    lifeline: Lifeline = False,
) -> None:
    """Serve as a Tier-2 worker: hold KV cache, compute attention over it."""
    import torch

    from glinthawk.core.units import format_size, parse_size
    from glinthawk.tier2.device import describe, pick_device
    from glinthawk.tier2.server import largest_frame, serve

    num_bytes = parse_size(kv)
    place = pick_device(device)
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listen_on(
        listen,
        allow,
        identity,
        password_file,
        largest_frame=largest_frame(num_bytes),
        lifeline=lifeline,
        quiet=quiet,
    ) as channel:
        if not quiet:
            typer.echo(f"KV cache {format_size(num_bytes)}, {describe(place)}")
        with suppress(KeyboardInterrupt):
            serve(channel, num_bytes, place, lifeline=0 if lifeline else None)
