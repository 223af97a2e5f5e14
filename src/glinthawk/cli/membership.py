"""How a worker comes to a run that is under way, and goes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glinthawk.cli.listening import ServerOptions
from glinthawk.core.errors import UsageError

if TYPE_CHECKING:
    from glinthawk.tier2.announcer import Announcer
    from glinthawk.wire.address import Address

__all__ = ["announce_to", "leave_on_sigterm", "parse_place"]


def leave_on_sigterm() -> threading.Event:
    """What the first SIGTERM sets; the second one is an interrupt."""
    leave = threading.Event()

    def take(number: int, frame: object) -> None:
        if leave.is_set():
            raise KeyboardInterrupt
        leave.set()

    signal.signal(signal.SIGTERM, take)
    return leave


def parse_place(join: str | None) -> "Address | None":
    """Raises UsageError for one over which nobody can join."""
    from glinthawk.wire.address import Address

    place = None if join is None else Address.parse(join)
    if place is not None and place.scheme not in ("tcp", "ipc"):
        raise UsageError("--join goes over tcp, where keys are checked, or ipc")
    return place


@contextmanager
def announce_to(
    place: "Address | None", endpoint: str, options: ServerOptions
) -> "Iterator[Announcer | None]":
    """Tells the run at ``place``, if any, of the worker that listens at ``endpoint``."""
    if place is None:
        yield None
        return
    from glinthawk.tier2.announcer import Announcer, reachable_address
    from glinthawk.wire.keys import Identity

    if not endpoint.startswith(f"{place.scheme}://"):
        raise UsageError(f"--listen must be {place.scheme}://, as the run is that is joined")
    identity = Identity.load(options.identity) if place.scheme == "tcp" else None
    own = reachable_address(endpoint, identity.public if identity else None, place)
    with Announcer(place, own, identity) as announcer:
        yield announcer
