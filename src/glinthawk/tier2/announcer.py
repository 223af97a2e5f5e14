"""A worker asks a run to take it, again and again while it serves nobody."""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from glinthawk.core.errors import UsageError, WorkerLost, WorkerRefused
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import VERSION, Announce, Fault

__all__ = ["Announcer", "reachable_address"]

_log = logging.getLogger(__name__)

#: How often it asks.
_AGAIN_S = 1.0
_WILDCARDS = ("0.0.0.0", "*", "::")


class Announcer:
    """Tells the run at ``place`` that a worker listens at ``own``."""

    def __init__(
        self,
        place: Address,
        own: Address,
        identity: Identity | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place, self._own, self._identity = place, own, identity
        self._clock = clock
        self._channel: ClientChannel | None = None
        self._next_s = 0.0
        self._said = ""

    def __enter__(self) -> "Announcer":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def look(self, is_free: bool) -> None:
        """Ask, if it is time to and the worker ``is_free``. Never waits. Raises WorkerRefused when
        the run does not take this worker; a run that is not there yet may come."""
        try:
            self._hear()
            if is_free and self._clock() >= self._next_s:
                self._next_s = self._clock() + _AGAIN_S
                self._ask()
        except WorkerLost as error:
            self._close()
            if str(error) != self._said:
                self._said = str(error)
                _log.warning("not joined yet: %s", error)

    def _ask(self) -> None:
        if self._channel is None:
            self._channel = ClientChannel(self._place, self._identity)
        self._channel.send(Announce(VERSION, self._own.text))

    def _hear(self) -> None:
        while self._channel is not None and (received := self._channel.receive()) is not None:
            if isinstance(received[0], Fault):
                raise WorkerRefused(f"{self._place.endpoint}: {received[0].text}")

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def reachable_address(endpoint: str, key: str | None, place: Address) -> Address:
    """Where the run at ``place`` finds a worker that listens at ``endpoint``: where that is any
    address of this machine, the one that faces the run. Raises UsageError."""
    if endpoint.startswith("tcp://"):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        host = _facing(place) if host.strip("[]") in _WILDCARDS else host
        own = Address.parse(f"tcp://{host}:{port}" + (f"?key={key}" if key else ""))
        if own.is_loopback and not place.is_loopback:
            raise UsageError(f"{endpoint} is out of the run's reach: --listen tcp://0.0.0.0:{port}")
        return own
    return Address.parse(endpoint)


def _facing(place: Address) -> str:
    """This machine's address on the way to ``place``; nothing is sent there."""
    host, _, port = place.endpoint.removeprefix("tcp://").rpartition(":")
    with suppress(OSError):
        for family, kind, _, _, where in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        ):
            with socket.socket(family, kind) as probe:
                probe.connect(where)
                own = str(probe.getsockname()[0])
                return f"[{own}]" if ":" in own else own
    raise UsageError(f"there is no way to {place.endpoint}: give --listen this machine's address")
