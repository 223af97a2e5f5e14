"""A relay between Unix sockets that knows ZeroMQ's frames (ZMTP without security), and so can
swallow a message whole, send it twice, keep it for a while, or copy a connection."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["Deed", "Judge", "Parcel", "Relay", "relay"]

Deed = Literal["pass", "swallow", "double", "delay", "cut", "copy"]

#: Of a greeting; an end sends each when it has seen what the other sent before.
_GREETING_PARTS = (10, 1, 53)
_MORE, _LONG, _COMMAND = 1, 2, 4
#: How long a parcel is kept that is delayed, in seconds.
_DELAY_S = 0.2


@dataclass(frozen=True)
class Parcel:
    """A message on its way: the ``number``-th of its connection in its direction, both from 0.
    ``link`` is the name of the relay's own socket."""

    link: str
    connection: int
    is_answer: bool
    number: int
    #: The bytes of its first frame.
    header: bytes


#: What is done to a parcel.
Judge = Callable[[Parcel], Deed]


@dataclass
class _Connection:
    number: int
    near: socket.socket
    far: socket.socket
    #: Held by who speaks for the client.
    turn: threading.Lock = field(default_factory=threading.Lock)
    #: All that the client has said, and who was told the same.
    said: list[bytes] = field(default_factory=list)
    copies: list[socket.socket] = field(default_factory=list)

    def tell_copies(self, message: bytes) -> None:
        with self.turn:
            self.said.append(message)
            for copy in self.copies:
                with suppress(OSError):
                    copy.sendall(message)

    def cut(self) -> None:
        for end in (self.near, self.far, *self.copies):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for end in (self.near, self.far, *self.copies):
            end.close()


class Relay:
    """Passes messages on from ``path`` to ``target``; ``judge`` says for each what is done."""

    def __init__(self, path: Path, target: Path, judge: Judge) -> None:
        self._name, self._target, self._judge = path.name, target, judge
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = threading.Event()
        self._start(self._accept)

    def close(self) -> None:
        self._is_closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.cut()
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._is_closed.is_set():
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                connection = _Connection(len(self._connections), near, far)
                self._connections.append(connection)
                try:
                    far.connect(str(self._target))
                except OSError:  # nobody listens there now
                    connection.cut()
                    continue
                self._start(self._pump, connection, near, far, False)
                self._start(self._pump, connection, far, near, True)

    def _pump(
        self,
        connection: _Connection,
        source: socket.socket,
        target: socket.socket,
        is_answer: bool,
    ) -> None:
        number = 0
        with suppress(OSError, EOFError):
            for header, message in _messages(source):
                deed: Deed = "pass"
                if header is not None:
                    parcel = Parcel(self._name, connection.number, is_answer, number, header)
                    deed, number = self._judge(parcel), number + 1
                if deed == "cut":
                    break
                if deed == "copy":
                    self._copy(connection)
                if deed == "delay":
                    self._is_closed.wait(_DELAY_S)
                if deed != "swallow":
                    target.sendall(message * (2 if deed == "double" else 1))
                if not is_answer:
                    connection.tell_copies(message)
        connection.cut()

    def _copy(self, connection: _Connection) -> None:
        """A second connection to the same place, which says all that the first one has said."""
        copy = socket.socket(socket.AF_UNIX)
        with connection.turn:
            connection.copies.append(copy)
            with suppress(OSError):
                copy.connect(str(self._target))
                self._start(_drain, copy)
                for message in connection.said:
                    copy.sendall(message)


def _drain(end: socket.socket) -> None:
    with suppress(OSError):
        while end.recv(1 << 16):
            pass


def _messages(source: socket.socket) -> Iterator[tuple[bytes | None, bytes]]:
    """(bytes of the first frame, None for what is no message; the whole as it was sent)."""
    with source.makefile("rb") as stream:
        for size in _GREETING_PARTS:
            yield None, _read(stream.read, size)
        while True:
            header, whole = None, b""
            while True:
                flags, raw, body = _frame(stream.read)
                whole += raw
                if flags & _COMMAND:
                    if header is None:
                        break
                    continue  # a heartbeat between the frames of a message goes with that
                header = body if header is None else header
                if not flags & _MORE:
                    break
            yield header, whole


def _frame(read: Callable[[int], bytes]) -> tuple[int, bytes, bytes]:
    """(flags, all bytes, the body) of the next frame."""
    flags = _read(read, 1)
    size = _read(read, 8 if flags[0] & _LONG else 1)
    body = _read(read, int.from_bytes(size, "big"))
    return flags[0], flags + size + body, body


def _read(read: Callable[[int], bytes], count: int) -> bytes:
    piece = read(count)
    if len(piece) < count:
        raise EOFError
    return piece


@contextmanager
def relay(path: Path, target: Path, judge: Judge) -> Iterator[Relay]:
    """A relay that ends with the block."""
    made = Relay(path, target, judge)
    try:
        yield made
    finally:
        made.close()
