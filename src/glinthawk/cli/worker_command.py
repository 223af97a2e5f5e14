"""``glinthawk worker``."""

import os
from contextlib import suppress
from typing import Annotated

import typer

from glinthawk.cli.listening import Listen, ServerOptions, listen_on, open_lifeline
from glinthawk.cli.membership import announce_to, leave_on_sigterm, parse_place
from glinthawk.cli.options import spread
from glinthawk.core.config import Device

__all__ = ["worker"]


@spread
def worker(
    *,
    listen: Listen = "tcp://127.0.0.1:7001",
    kv: Annotated[str, typer.Option(help="Memory for the KV cache, like 4GiB.")] = "4GiB",
    storage: Annotated[
        list[str] | None,
        typer.Option(
            help="DIR:SIZE on a drive for KV that --kv does not hold (repeatable, one for each "
            "drive); attention is computed as it streams by."
        ),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(help="Where the KV cache lies and attention runs; auto: a GPU if any."),
    ] = "cpu",
    join: Annotated[
        str | None,
        typer.Option(
            help="A run that takes this worker while it is under way, as it printed: "
            "tcp://host:port?key=KEY (its --joiners). The run's key is allowed by that.",
            metavar="PLACE",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads for attention on a CPU; 0: all cores.")] = 0,
    options: ServerOptions,
) -> None:
    """Serve as a Tier-2 worker: hold KV cache, compute attention over it.

    On SIGTERM it takes nothing new and ends when its sequences have gone elsewhere; on Ctrl-C or a
    second SIGTERM at once.
    """
    import torch

    from glinthawk.attention.devices import pick_device
    from glinthawk.core.drives import parse_drives
    from glinthawk.core.units import parse_size
    from glinthawk.tier2.device import describe
    from glinthawk.tier2.pages.page_files import PageFiles
    from glinthawk.tier2.server import largest_frame, serve
    from glinthawk.tier2.worker_memory import describe_memory

    num_bytes, drives = parse_size(kv), parse_drives(storage or ())
    num_bytes_in_all = num_bytes + sum(drive.num_bytes for drive in drives)
    place = pick_device(device)
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    watched = open_lifeline(options.lifeline)
    leave = None if options.lifeline else leave_on_sigterm()
    place_to_join = parse_place(join)
    with (
        PageFiles(drives) as files,
        listen_on(
            listen,
            options,
            largest_frame=largest_frame(num_bytes_in_all),
            allow=[place_to_join.key] if place_to_join and place_to_join.key else (),
        ) as channel,
        announce_to(place_to_join, channel.endpoint, options) as announcer,
    ):
        if not options.quiet:
            typer.echo(f"KV cache {_describe_kv(num_bytes, num_bytes_in_all)}, {describe(place)}")
            typer.echo(describe_memory(channel.window))
        with suppress(KeyboardInterrupt):
            serve(
                channel,
                num_bytes,
                place,
                files=files,
                lifeline=watched,
                leave=leave,
                announcer=announcer,
            )


def _describe_kv(in_memory: int, in_all: int) -> str:
    from glinthawk.core.units import format_size

    on_drives = f" and {format_size(in_all - in_memory)} on drives" if in_all > in_memory else ""
    return f"{format_size(in_memory)}{on_drives}"
