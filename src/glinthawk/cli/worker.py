"""``glinthawk worker``."""

import os
import shutil
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer

from glinthawk.core.config import PRIVATE_FOLDER, Device

__all__ = ["worker"]


def worker(
    listen: Annotated[
        str,
        typer.Option(
            help="Where to listen: tcp://host:port or ipc:///path; tcp+plain://host:port takes "
            "whoever knows a password, and encrypts nothing."
        ),
    ] = "tcp://127.0.0.1:7001",
    kv: Annotated[str, typer.Option(help="Memory for the KV cache, like 4GiB.")] = "4GiB",
    device: Annotated[
        Device,
        typer.Option(help="Where the KV cache lies and attention runs; auto: a GPU if any."),
    ] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads for attention on a CPU; 0: all cores.")] = 0,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Public key of a client that may connect (repeatable). On a loopback address "
            "this user's own key is allowed without asking."
        ),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(help="File of this worker's key pair. Default: this user's.")
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="For tcp+plain: the password is the first line of this file."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
) -> None:
    """Serve as a Tier-2 worker: hold KV cache, compute attention over it."""
    import torch

    from glinthawk.core.units import format_size, parse_size
    from glinthawk.tier2.device import describe, pick_device
    from glinthawk.tier2.server import largest_frame, serve
    from glinthawk.wire.address import Address
    from glinthawk.wire.channel import ServerChannel
    from glinthawk.wire.keys import Identity, check_key, load_password

    address = Address.parse(listen)
    num_bytes = parse_size(kv)
    place = pick_device(device)
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    own = Identity.load(identity) if address.scheme == "tcp" else None
    allowed = [check_key(key) for key in allow or ()]
    if own is not None and address.is_loopback:
        allowed.append(own.public)
    password = load_password(password_file) if password_file is not None else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if lifeline:
            stack.callback(_remove_private_folder, address.endpoint)
        channel = stack.enter_context(
            ServerChannel(address, own, allowed, password, largest_frame(num_bytes))
        )
        if not quiet:
            key = f"?key={own.public}" if own is not None else ""
            secret = "?password=..." if address.scheme == "tcp+plain" else ""
            typer.echo(f"listening on {channel.endpoint}{key}{secret}")
            typer.echo(f"KV cache {format_size(num_bytes)}, {describe(place)}")
        with suppress(KeyboardInterrupt):
            serve(channel, num_bytes, place, lifeline=0 if lifeline else None)


def _remove_private_folder(endpoint: str) -> None:
    """The socket's folder, if it was made for one run: its maker may be dead by now."""
    folder = Path(endpoint.removeprefix("ipc://")).parent
    if folder.is_absolute() and folder.name.startswith(PRIVATE_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
