"""What the commands that wait for others have in common: where they listen and to whom."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glinthawk.cli.log_options import LogJsonFlag
from glinthawk.core.config import LINK_WINDOW
from glinthawk.core.errors import UsageError

if TYPE_CHECKING:
    from glinthawk.wire.server_channel import ServerChannel

__all__ = ["Listen", "ServerOptions", "listen_on", "open_lifeline"]

Listen = Annotated[
    str,
    typer.Option(
        help="Where to listen: tcp://host:port or ipc:///path; tcp+plain://host:port takes "
        "whoever knows a password, and encrypts nothing."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Of every command that waits for others."""

    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Public key of a client that may connect (repeatable). On a loopback address "
            "this user's own key is allowed without asking."
        ),
    ] = None
    identity: Annotated[
        Path | None, typer.Option(help="File of this process's key pair. Default: this user's.")
    ] = None
    password_file: Annotated[
        Path | None,
        typer.Option(help="For tcp+plain: the password is the first line of this file."),
    ] = None
    window: Annotated[
        str,
        typer.Option(
            help="Bytes that may be on their way here from each client: less takes less memory, "
            "more fills a link that is long and fast.",
            metavar="SIZE",
        ),
    ] = f"{LINK_WINDOW >> 20}MiB"
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False
    log_json: LogJsonFlag = False
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False


@contextmanager
def listen_on(
    listen: str, options: ServerOptions, *, largest_frame: int
) -> Iterator["ServerChannel"]:
    """An open channel; says where it can be reached. Raises UsageError."""
    from glinthawk.wire.address import Address
    from glinthawk.wire.keys import Identity, check_key, load_password
    from glinthawk.wire.server_channel import ServerChannel

    address = Address.parse(listen)
    own = Identity.load(options.identity) if address.scheme == "tcp" else None
    allowed = [check_key(key) for key in options.allow or ()]
    if own is not None and address.is_loopback:
        allowed.append(own.public)
    secret_file = options.password_file
    password = load_password(secret_file) if secret_file is not None else None
    num_bytes = _parse_window(options.window)
    with ExitStack() as stack:
        if options.lifeline:
            stack.callback(_remove_private_folder, address.endpoint)
        channel = stack.enter_context(
            ServerChannel(address, own, allowed, password, largest_frame, num_bytes)
        )
        if not options.quiet:
            key = f"?key={own.public}" if own is not None else ""
            secret = "?password=..." if address.scheme == "tcp+plain" else ""
            typer.echo(f"listening on {channel.endpoint}{key}{secret}")
        yield channel


def _parse_window(text: str) -> int:
    from glinthawk.core.units import format_size, parse_size
    from glinthawk.wire.credit import LARGEST_WINDOW

    num_bytes = parse_size(text)
    if not 1 <= num_bytes <= LARGEST_WINDOW:
        most = format_size(LARGEST_WINDOW)
        raise UsageError(f"--window must be at least one byte and at most {most}, not {text}")
    return num_bytes


def open_lifeline(is_given: bool) -> int:
    """What a server watches beside its socket: standard input, whose end it must not outlive, or,
    where it was started by hand, a pipe that never ends, into which every signal writes a byte.
    SIGTERM then ends it too when it comes just before the server waits, where Python would not
    look at it until the next message."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if is_given:
        return 0
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _remove_private_folder(endpoint: str) -> None:
    """The socket's folder, if it was made for one run: its maker may be dead by now."""
    from glinthawk.wire.address import PRIVATE_FOLDER

    folder = Path(endpoint.removeprefix("ipc://")).parent
    if folder.is_absolute() and folder.name.startswith(PRIVATE_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
