"""Who may connect over tcp: the answer to what ZeroMQ asks about every new connection.

pyzmq has an authenticator, too. It lets in whoever shows no credentials, wants a password's user by
name, compares and logs passwords as any text, and a context cannot end before it is stopped.
"""

import hmac
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import zmq

__all__ = ["Gate", "KnownKeys", "Lock", "Password"]

_ENDPOINT = "inproc://zeromq.zap.01"
_DOMAIN = b"glinthawk"


class Lock(Protocol):
    """What a client must show."""

    #: The security mechanism, as ZeroMQ names it.
    mechanism: bytes

    def opens(self, credentials: Sequence[bytes]) -> bool:
        """Whether a client with these credentials may in."""
        ...


class KnownKeys:
    """CURVE: a client may in whose public key (hexadecimal) is on the list."""

    mechanism = b"CURVE"

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = {bytes.fromhex(key) for key in keys}

    def opens(self, credentials: Sequence[bytes]) -> bool:
        return credentials[0] in self._keys


class Password:
    """PLAIN: a client may in that knows the password, under whatever name."""

    mechanism = b"PLAIN"

    def __init__(self, password: str) -> None:
        self._password = password.encode()

    def opens(self, credentials: Sequence[bytes]) -> bool:
        # The time this takes tells nothing of where a wrong password differs.
        return hmac.compare_digest(credentials[1], self._password)


class Gate:
    """Answers ZeroMQ's questions (ZAP, RFC 27) in one context, by a thread that ends with it.

    Made before the socket that it guards is bound; should it ever fail, nobody is let in.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], lock: Lock) -> None:
        self._lock = lock
        socket = context.socket(zmq.REP)
        socket.linger = 0
        socket.bind(_ENDPOINT)
        threading.Thread(target=self._serve, args=(socket,), daemon=True).start()

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let nobody connect to ``socket`` without being asked for."""
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        with socket, suppress(zmq.ContextTerminated):
            while True:
                socket.send_multipart(self._answer(socket.recv_multipart()))

    def _answer(self, request: Sequence[bytes]) -> list[bytes]:
        version, number, _domain, _address, _name, mechanism, *credentials = request
        if mechanism == self._lock.mechanism and self._lock.opens(credentials):
            return [version, number, b"200", b"OK", b"client", b""]
        return [version, number, b"400", b"unknown", b"", b""]
