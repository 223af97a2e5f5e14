"""TCP sockets with next to no protocol: the roofs of a plain link and of an encrypted one.

Blocks are sent as they are, or sealed by AES-256-GCM from one buffer into another, both used again
and again. A link that has messages, too, can do no better than these.
"""

import importlib.util
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Protocol

from glinthawk.bench.timing import medians

__all__ = [
    "BLOCK",
    "SMALL",
    "BareSockets",
    "Blocks",
    "PlainBlocks",
    "SealedBlocks",
    "copying_speed",
    "has_aes",
    "sealing_speed",
]

#: What goes into and out of a socket at once.
BLOCK = 1 << 20
#: q, k and v of a decode row or two.
SMALL = 4096

_TAG = 16
_NONCE = 12
#: The first byte of nonces, so that the two directions of one key share none.
_FROM_NEAR, _FROM_FAR = 0, 1


class Blocks(Protocol):
    """How blocks cross one connection."""

    def send(self, connection: socket.socket, block: memoryview) -> None:
        """Send at most BLOCK bytes."""

    def receive(self, connection: socket.socket, most: int) -> int:
        """Take some of the next ``most`` bytes, at most BLOCK; how many."""


class PlainBlocks:
    """Bytes as they are."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(BLOCK))

    def send(self, connection: socket.socket, block: memoryview) -> None:
        connection.sendall(block)

    def receive(self, connection: socket.socket, most: int) -> int:
        return connection.recv_into(self._room[:most])


class SealedBlocks:
    """AES-256-GCM. ``key`` has 32 bytes and serves one connection; nonces are counted. ``is_near``
    tells the two ends apart. Raises InvalidTag for a block that is not the next one sent."""

    def __init__(self, key: bytes, *, is_near: bool) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)
        self._room = memoryview(bytearray(BLOCK))
        self._sealed = memoryview(bytearray(BLOCK + _TAG))
        self._sends, self._receives = (_FROM_NEAR, _FROM_FAR)[:: 1 if is_near else -1]
        self._sent, self._received = count(), count()

    def send(self, connection: socket.socket, block: memoryview) -> None:
        sealed = self._sealed[: len(block) + _TAG]
        self._cipher.encrypt_into(_nonce(self._sends, next(self._sent)), block, None, sealed)
        connection.sendall(sealed)

    def receive(self, connection: socket.socket, most: int) -> int:
        size = min(most, BLOCK)
        sealed, room = self._sealed[: size + _TAG], self._room[:size]
        if connection.recv_into(sealed, 0, socket.MSG_WAITALL) < len(sealed):
            raise ConnectionError("the far end has ended")
        self._cipher.decrypt_into(_nonce(self._receives, next(self._received)), sealed, None, room)
        return size


def _nonce(direction: int, number: int) -> bytes:
    return direction.to_bytes(1) + number.to_bytes(_NONCE - 1)


class BareSockets:
    """The near ends of connections to ``places``, which share what is poured."""

    def __init__(self, places: Sequence[str], blocks: Sequence[Blocks]) -> None:
        self._sockets = [_connect(place) for place in places]
        self._blocks = blocks
        self._block = memoryview(bytes(BLOCK))
        self._threads = ThreadPoolExecutor(len(places))

    def pour(self, num_bytes: int) -> None:
        """Return when so many bytes are known to have arrived."""
        share = num_bytes // len(self._sockets)
        list(
            self._threads.map(
                lambda number: self._send(number, share, 1), range(len(self._sockets))
            )
        )

    def ask(self) -> None:
        """Return when a small parcel has been answered."""
        self._send(0, 3 * SMALL, SMALL)

    def _send(self, number: int, num_bytes: int, answer: int) -> None:
        connection, blocks = self._sockets[number], self._blocks[number]
        connection.sendall(num_bytes.to_bytes(8) + answer.to_bytes(8))
        for begin in range(0, num_bytes, BLOCK):
            blocks.send(connection, self._block[: num_bytes - begin])
        while answer:
            answer -= blocks.receive(connection, answer)

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._sockets:
            connection.close()


def _connect(place: str) -> socket.socket:
    host, port = place.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def has_aes() -> bool:
    """Whether the library for ``SealedBlocks`` is installed, which nothing else needs."""
    return importlib.util.find_spec("cryptography") is not None


def copying_speed() -> float:
    """GB/s from one buffer of the size of a block into another, on one core."""
    source, target = bytes(BLOCK), bytearray(BLOCK)

    def copy() -> None:
        target[:] = source

    return 1e-9 * BLOCK / medians(100, copy)[0]


def sealing_speed() -> float:
    """GB/s that are sealed and opened, one after the other, on one core: about half of what either
    does alone."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(bytes(32))
    block, sealed = bytearray(BLOCK), bytearray(BLOCK + _TAG)

    def seal_and_open() -> None:
        # The same nonce each time: nothing leaves this function.
        cipher.encrypt_into(bytes(_NONCE), block, None, sealed)
        cipher.decrypt_into(bytes(_NONCE), sealed, None, block)

    return 1e-9 * BLOCK / medians(100, seal_and_open)[0]
