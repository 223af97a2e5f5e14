"""The wire between the tiers on this machine alone: every transport against a bare socket.

A far end in a process of its own takes parcels as a worker does, and computes nothing. So what is
measured is what messages, ZeroMQ and encryption cost both ends, which share this machine's cores.
"""

import json
import os
import socket
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import zmq

from glinthawk.bench.far_end import BARE_BLOCK, LAST, far_end
from glinthawk.bench.timing import seconds
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Attend, Message, Store

__all__ = ["LinkPlan", "LinkRow", "measure_transports", "run"]

#: k and v of a parcel: 256 rows of 8 KV heads of 128 in two bytes, eight times.
_FRAME = 4 << 20
#: q, k and v of a decode row or two.
_SMALL = 4096
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """``num_bytes`` to the far end and ``trips`` there and back by each transport in each round; by
    those over TCP with each number of connections."""

    num_bytes: int = 2 << 30
    trips: int = 2000
    rounds: int = 3
    connections: tuple[int, ...] = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class LinkRow:
    """Medians over the rounds."""

    transport: str
    connections: int
    gb_per_s: float
    #: Of a bare socket's bytes a second, in the same round.
    share: float
    #: From a small parcel to its answer.
    round_trip_us: float


class Way(Protocol):
    """To the far end and back."""

    def pour(self, num_bytes: int) -> None:
        """Return when so many bytes are known to have arrived."""

    def ask(self) -> None:
        """Return when a small parcel has been answered."""


class _Bare:
    """A TCP socket and no protocol to speak of."""

    def __init__(self, place: str) -> None:
        host, port = place.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._block = bytes(BARE_BLOCK)

    def pour(self, num_bytes: int) -> None:
        self._send(num_bytes, answer=1)

    def ask(self) -> None:
        self._send(3 * _SMALL, answer=_SMALL)

    def _send(self, num_bytes: int, answer: int) -> None:
        self._socket.sendall(num_bytes.to_bytes(8) + answer.to_bytes(8))
        for begin in range(0, num_bytes, BARE_BLOCK):
            self._socket.sendall(memoryview(self._block)[: num_bytes - begin])
        self._socket.recv(answer, socket.MSG_WAITALL)

    def close(self) -> None:
        self._socket.close()


class _Channels:
    """Connections of the wire's own; parcels take turns among them."""

    def __init__(self, channels: Sequence[ClientChannel]) -> None:
        self._channels = channels
        self._frames = [bytes(_FRAME)] * 2
        self._small = [bytes(_SMALL)] * 3
        for channel in channels:
            channel.reach(_PATIENCE_S)

    def pour(self, num_bytes: int) -> None:
        count = len(self._channels)
        left = dict.fromkeys(self._channels, num_bytes // (2 * _FRAME * count))
        while left:
            free = [channel for channel in left if channel.window.has_room()]
            for channel in free:
                left[channel] -= 1
                channel.send(Store(0, 0 if left[channel] else LAST), self._frames)
            left = {channel: parcels for channel, parcels in left.items() if parcels}
            if not free:
                _hear(left)
        for channel in self._channels:
            _answer(channel)

    def ask(self) -> None:
        self._channels[0].send(Attend(0, 0), self._small)
        _answer(self._channels[0])


def _hear(channels: Iterable[ClientChannel]) -> None:
    """Wait for word of what was taken. Nothing else comes before the last parcel has left."""
    poller = zmq.Poller()
    for channel in channels:
        poller.register(channel.socket, zmq.POLLIN)
    poller.poll(round(1000 * _PATIENCE_S))
    for channel in channels:
        assert channel.receive() is None


def _answer(channel: ClientChannel) -> Message:
    while (received := channel.receive()) is None:
        channel.wait(_PATIENCE_S)
    return received[0]


def measure_transports(plan: LinkPlan, write: Callable[[str], None]) -> list[LinkRow]:
    """All transports take turns in each round. The first row is the bare socket."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glinthawk-link-")))
        kinds = [("bare socket", 1), ("ipc", 1)]
        kinds += [(scheme, count) for scheme in ("tcp+plain", "tcp") for count in plan.connections]
        ways = [stack.enter_context(_open(*kind, folder)) for kind in kinds]
        rounds = [[_measure(way, plan) for way in ways] for _ in range(plan.rounds)]
    rows = []
    for (transport, count), found in zip(kinds, zip(*rounds, strict=True), strict=True):
        speeds, trips = zip(*found, strict=True)
        shares = [speed / bare[0][0] for speed, bare in zip(speeds, rounds, strict=True)]
        gb_per_s, share, trip = (statistics.median(some) for some in (speeds, shares, trips))
        rows.append(
            LinkRow(transport, count, round(gb_per_s, 2), round(share, 3), round(1e6 * trip, 1))
        )
        write(_describe(rows[-1]))
    return rows


def _measure(way: Way, plan: LinkPlan) -> tuple[float, float]:
    """GB a second, and seconds there and back."""
    took = seconds(lambda: way.pour(plan.num_bytes))
    trips = [seconds(way.ask) for _ in range(plan.trips)]
    return 1e-9 * plan.num_bytes / took, statistics.median(trips)


@contextmanager
def _open(transport: str, count: int, folder: Path) -> Iterator[Way]:
    identity = Identity.create()
    if transport == "bare socket":
        with far_end("bare", identity, []) as (place,), closing(_Bare(place)) as way:
            yield way
        return
    texts = [_listen_at(transport, folder / f"{count}-{number}") for number in range(count)]
    with far_end("channels", identity, texts) as places, ExitStack() as stack:
        password = f"?password={identity.secret}" if transport == "tcp+plain" else ""
        addresses = [Address.parse(place + password) for place in places]
        yield _Channels(
            [stack.enter_context(ClientChannel(address, identity)) for address in addresses]
        )


def _listen_at(transport: str, path: Path) -> str:
    return f"ipc://{path}" if transport == "ipc" else f"{transport}://127.0.0.1:0"


def _describe(row: LinkRow) -> str:
    return (
        f"{row.transport} x {row.connections}: {row.gb_per_s:.2f} GB/s, {row.share:.2f} of a bare "
        f"socket's; there and back {row.round_trip_us:.0f} us"
    )


def run(write: Callable[[str], None], *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = LinkPlan(256 << 20, 200, 1, (1, 2)) if quick else LinkPlan()
    cores = len(os.sched_getaffinity(0))
    write(f"both ends on {cores} cores; the roof is the bare socket")
    rows = measure_transports(plan, write)
    write(json.dumps({"cores": cores, "rows": [asdict(row) for row in rows]}))
