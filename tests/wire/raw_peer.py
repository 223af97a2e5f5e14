"""A peer that speaks ZeroMQ's protocol (ZMTP 3.0, no security) by hand, and so can break it."""

import socket

__all__ = ["RawPeer"]

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_COMMAND, _LONG = 0x04, 0x02
_PATIENCE_S = 20.0


class RawPeer:
    """A connection to an ``ipc`` endpoint whose handshake is done; ``name`` is what it claims."""

    def __init__(self, endpoint: str, name: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect(endpoint.removeprefix("ipc://"))
        self.write(_GREETING)
        self._read(len(_GREETING))
        properties = _property(b"Socket-Type", b"DEALER") + _property(b"Identity", name)
        ready = b"\x05READY" + properties
        self.write(bytes([_COMMAND, len(ready)]) + ready)
        _, length = self._read(2)
        self._read(length)

    def write(self, raw: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(raw)

    def send(self, frame: bytes) -> None:
        """A message of one short frame."""
        self.write(bytes([0, len(frame)]) + frame)

    def claim(self, num_bytes: int) -> None:
        """Begin a frame that is said to have ``num_bytes``."""
        self.write(bytes([_LONG]) + num_bytes.to_bytes(8, "big") + b"some")

    def is_cut_off(self) -> bool:
        """Whether the other side ends the connection, however long that takes."""
        try:
            while self._socket.recv(4096):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()

    def _read(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            piece = self._socket.recv(count - len(received))
            assert piece, "the connection ended in its handshake"
            received += piece
        return received


def _property(key: bytes, value: bytes) -> bytes:
    return bytes([len(key)]) + key + len(value).to_bytes(4, "big") + value
