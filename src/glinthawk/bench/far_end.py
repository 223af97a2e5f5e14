"""The far end of a link that is measured: a process that takes what it is sent, and answers."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import zmq

from glinthawk.bench.bare_sockets import Blocks, PlainBlocks, SealedBlocks
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Ask, Attend, Attended, FromTier1, Stats, Store, Stored, decode
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["LAST", "FarEnd", "far_end"]

#: The layer whose ``Store`` is acknowledged.
LAST = 1


@dataclass(frozen=True, slots=True)
class FarEnd:
    """Where it listens, and its process."""

    places: list[str]
    pid: int

    def processor_s(self) -> float:
        """Seconds of processor time that it has used, by Linux's clock of another process."""
        return time.clock_gettime((~self.pid << 3) | 2)


@contextmanager
def far_end(kind: str, secrets: list[str], endpoints: list[str]) -> Iterator[FarEnd]:
    """The far end, once it listens; it ends with the block.

    "channels" listen at ``endpoints``, with ``secrets`` the public and the secret key; "bare" and
    "sealed" sockets take one connection at each ``host:port``, for which "sealed" ones have a key
    each."""
    command = [sys.executable, "-m", __name__, kind, *endpoints]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            # Not in its arguments, which all users of a machine can read.
            process.stdin.write(json.dumps(secrets) + "\n")
            process.stdin.flush()
            yield FarEnd(json.loads(process.stdout.readline()), process.pid)
        finally:
            process.kill()


def _tell(places: list[str]) -> None:
    sys.stdout.write(json.dumps(places) + "\n")
    sys.stdout.flush()


def _serve_sockets(endpoints: list[str], all_blocks: list[Blocks]) -> None:
    """One connection each, until it is closed."""
    listening = [socket.create_server(_host_and_port(place)) for place in endpoints]
    _tell([f"127.0.0.1:{each.getsockname()[1]}" for each in listening])
    for pair in zip(listening, all_blocks, strict=True):
        threading.Thread(target=_serve_socket, args=pair).start()


def _host_and_port(place: str) -> tuple[str, int]:
    host, port = place.rsplit(":", 1)
    return host, int(port)


def _serve_socket(listening: socket.socket, blocks: Blocks) -> None:
    """8 bytes say how much follows, and 8 how many bytes answer it."""
    with listening:
        connection, _ = listening.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while head := connection.recv(16, socket.MSG_WAITALL):
            left, answer = int.from_bytes(head[:8]), int.from_bytes(head[8:])
            while left:
                left -= blocks.receive(connection, left)
            blocks.send(connection, memoryview(bytes(answer)))


def _serve_channels(endpoints: list[str], identity: Identity) -> None:
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


def _main(kind: str, *endpoints: str) -> None:
    secrets = json.loads(sys.stdin.readline())
    if kind == "channels":
        _serve_channels(list(endpoints), Identity(*secrets))
    elif kind == "sealed":
        keys = [bytes.fromhex(key) for key in secrets]
        _serve_sockets(list(endpoints), [SealedBlocks(key, is_near=False) for key in keys])
    else:
        _serve_sockets(list(endpoints), [PlainBlocks() for _ in endpoints])


if __name__ == "__main__":
    _main(*sys.argv[1:])
