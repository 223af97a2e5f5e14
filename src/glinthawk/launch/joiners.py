"""Workers that ask a run to take them while it is under way."""

from collections.abc import Sequence

import zmq

from glinthawk.core.errors import GlinthawkError, WorkerRefused
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity, check_key
from glinthawk.wire.messages import VERSION, Announce, Fault, FromJoiner, decode
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["Joiners"]

#: What they say is short.
_LARGEST_FRAME = 1 << 16


class Joiners:
    """Hears workers at ``address``. Over tcp, only those whose public keys are in ``allow``, or
    that have this user's own on a loopback address; and they are joined at addresses with one of
    these keys alone, so that nobody can send a run elsewhere. Raises AddressError."""

    def __init__(self, address: Address, identity: Identity | None, allow: Sequence[str]) -> None:
        self._keys = {check_key(key) for key in allow}
        if identity is not None and address.is_loopback:
            self._keys.add(identity.public)
        self._channel = ServerChannel(
            address, identity, sorted(self._keys), None, _LARGEST_FRAME, _LARGEST_FRAME
        )
        key = f"?key={identity.public}" if identity is not None else ""
        #: What workers are told to join.
        self.place = f"{self._channel.endpoint}{key}"

    def __enter__(self) -> "Joiners":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def arrived(self) -> list[Address]:
        """Where those listen that have asked since. Never waits."""
        arrived = []
        while self._channel.socket.poll(0, zmq.POLLIN):
            received = self._channel.take()
            if received is not None and received[1]:
                arrived += self._read(*received)
        return arrived

    def _read(self, client: bytes, frames: list[memoryview]) -> list[Address]:
        try:
            message = decode(frames[0], FromJoiner)
            return [self._check(message)] if isinstance(message, Announce) else []
        except GlinthawkError as error:
            self._channel.send(client, Fault(str(error), refused=True))
            return []

    def _check(self, message: Announce) -> Address:
        if message.version != VERSION:
            raise WorkerRefused(
                f"this run speaks wire version {VERSION}, the worker {message.version}; install "
                "the same glinthawk on both machines"
            )
        address = Address.parse(message.address)
        is_alike = address.scheme == self._channel.address.scheme
        if not is_alike or (address.scheme == "tcp" and address.key not in self._keys):
            raise WorkerRefused(
                "a worker listens as the run does that it joins, with a key that is allowed there"
            )
        return address
