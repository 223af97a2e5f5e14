"""The far end of a link that is measured: a process that takes what it is sent, and answers."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Ask, Attend, Attended, FromTier1, Stats, Store, Stored, decode
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["BARE_BLOCK", "LAST", "far_end"]

#: What goes into and out of a bare socket at once.
BARE_BLOCK = 1 << 20
#: The layer whose ``Store`` is acknowledged.
LAST = 1


@contextmanager
def far_end(kind: str, identity: Identity, endpoints: list[str]) -> Iterator[list[str]]:
    """Where it listens, once it does: "channels" at ``endpoints``, a "bare" socket at a port of its
    choice, for one connection. It ends with the block."""
    command = [sys.executable, "-m", __name__, kind, *endpoints]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            # Not in its arguments, which all users of a machine can read.
            process.stdin.write(json.dumps([identity.public, identity.secret]) + "\n")
            process.stdin.flush()
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def _tell(places: list[str]) -> None:
    sys.stdout.write(json.dumps(places) + "\n")
    sys.stdout.flush()


def _serve_bare() -> None:
    """One connection, until it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        _tell([f"127.0.0.1:{listening.getsockname()[1]}"])
        connection, _ = listening.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        _answer_bytes(connection)


def _answer_bytes(connection: socket.socket) -> None:
    """8 bytes say how much follows, and 8 how many bytes answer it."""
    room = memoryview(bytearray(BARE_BLOCK))
    while head := connection.recv(16, socket.MSG_WAITALL):
        left, answer = int.from_bytes(head[:8]), int.from_bytes(head[8:])
        while left:
            left -= connection.recv_into(room[: min(left, BARE_BLOCK)])
        connection.sendall(room[:answer])


def _serve_channels(endpoints: list[str]) -> None:
    identity = Identity(*json.loads(sys.stdin.readline()))
    password = identity.secret
    channels = [
        ServerChannel(Address.parse(place), identity, [identity.public], password)
        for place in endpoints
    ]
    _tell([channel.endpoint for channel in channels])
    poller = zmq.Poller()
    for channel in channels:
        poller.register(channel.socket, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        for channel in channels:
            if channel.socket in ready:
                _answer(channel)


def _answer(channel: ServerChannel) -> None:
    """As a worker that has nothing to compute."""
    if (received := channel.take()) is None:
        return
    client, frames = received
    message = decode(frames[0], FromTier1)
    if isinstance(message, Attend):
        channel.send(client, Attended(message.step, message.layer, 0), [frames[1]])
    elif isinstance(message, Store) and message.layer == LAST:
        channel.send(client, Stored(message.step))
    elif isinstance(message, Ask):
        channel.send(client, Stats(0, 0))


if __name__ == "__main__":
    _, _kind, *_endpoints = sys.argv
    _serve_bare() if _kind == "bare" else _serve_channels(_endpoints)
