"""Both ends of a link in one process, over any transport."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from cluster import IDENTITY
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import FromWorker
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["SCHEMES", "await_answer", "link", "listen", "listen_address"]

SCHEMES = ("inproc", "ipc", "tcp")
_PATIENCE_S = 20
_names = itertools.count()


def listen_address(scheme: str, folder: Path) -> Address:
    """A free place to listen."""
    name = f"link-{next(_names)}"
    texts = {
        "inproc": f"inproc://{name}",
        "ipc": f"ipc://{folder}/{name}",
        "tcp": "tcp://127.0.0.1:0",
    }
    return Address.parse(texts[scheme])


@contextmanager
def listen(scheme: str, folder: Path) -> Iterator[ServerChannel]:
    """A server that gives up waiting instead of hanging the tests."""
    with ServerChannel(listen_address(scheme, folder), IDENTITY, [IDENTITY.public]) as server:
        server.socket.rcvtimeo = _PATIENCE_S * 1000
        yield server


@contextmanager
def link(scheme: str, folder: Path) -> Iterator[tuple[ServerChannel, ClientChannel]]:
    """A server and a client that may speak to it."""
    with listen(scheme, folder) as server:
        address = Address.parse(server.endpoint)
        with ClientChannel(address, IDENTITY) as client:
            yield server, client


def await_answer(client: ClientChannel) -> tuple[FromWorker, list[memoryview], int]:
    """The next message; news of the connection that are no message are passed over."""
    poller = zmq.Poller()
    for socket in client.sockets:
        poller.register(socket, zmq.POLLIN)
    for _ in range(200):  # a client that tries to connect again and again has news each time
        if not poller.poll(_PATIENCE_S * 1000):
            break
        received = client.receive()
        if received is not None:
            return received
    pytest.fail("nothing came")
