"""The wire between the tiers on this machine alone: every transport against a bare socket.

A far end in a process of its own takes parcels as a worker does, and computes nothing. So what is
measured is what messages, ZeroMQ and encryption cost both ends, which share this machine's cores.
A sealed socket is a bare one whose blocks are encrypted by AES-256-GCM: no encrypted link could do
more here.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import zmq

from glinthawk.bench.bare_sockets import (
    SMALL,
    BareSockets,
    Blocks,
    PlainBlocks,
    SealedBlocks,
    copying_speed,
    has_aes,
    sealing_speed,
)
from glinthawk.bench.far_end import LAST, FarEnd, far_end
from glinthawk.bench.timing import seconds
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Attend, Message, Store

__all__ = ["LinkPlan", "LinkRow", "describe_roof", "find_roof", "measure_transports", "run"]

#: k and v of a parcel: 256 rows of 8 KV heads of 128 in two bytes, eight times.
_FRAME = 4 << 20
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
    #: Processor time of both ends. What else the machine does hardly changes it.
    processor_s_per_gb: float
    #: From a small parcel to its answer.
    round_trip_us: float


class _Way(Protocol):
    """To the far end and back."""

    def pour(self, num_bytes: int) -> None:
        """Return when so many bytes are known to have arrived."""

    def ask(self) -> None:
        """Return when a small parcel has been answered."""


class _Channels:
    """Connections of the wire's own; parcels take turns among them."""

    def __init__(self, channels: Sequence[ClientChannel]) -> None:
        self._channels = channels
        self._frames = [bytes(_FRAME)] * 2
        self._small = [bytes(SMALL)] * 3
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
        kinds = _kinds(plan)
        ways = [stack.enter_context(_open(*kind, folder)) for kind in kinds]
        rounds = [[_measure(*way, plan) for way in ways] for _ in range(plan.rounds)]
    rows = []
    for (transport, count), found in zip(kinds, zip(*rounds, strict=True), strict=True):
        shares = [one.gb_per_s / bare[0].gb_per_s for one, bare in zip(found, rounds, strict=True)]
        rows.append(_row(transport, count, found, statistics.median(shares)))
        write(_describe(rows[-1]))
    return rows


def _kinds(plan: LinkPlan) -> list[tuple[str, int]]:
    """What is measured, and with how many connections."""
    kinds = [("bare socket", 1), ("ipc", 1)]
    several = ["tcp+plain", "tcp", *(["sealed socket"] if has_aes() else [])]
    return kinds + [(transport, count) for transport in several for count in plan.connections]


@dataclass(frozen=True, slots=True)
class _Measured:
    """One round of one transport."""

    gb_per_s: float
    processor_s_per_gb: float
    round_trip_s: float


def _measure(way: _Way, far: FarEnd, plan: LinkPlan) -> _Measured:
    def processor_s() -> float:
        return time.process_time() + far.processor_s()

    num_gb = 1e-9 * plan.num_bytes
    begun = processor_s()
    took = seconds(lambda: way.pour(plan.num_bytes))
    used = processor_s() - begun
    trips = [seconds(way.ask) for _ in range(plan.trips)]
    return _Measured(num_gb / took, used / num_gb, statistics.median(trips))


def _row(transport: str, count: int, found: Sequence[_Measured], share: float) -> LinkRow:
    gb_per_s = statistics.median(one.gb_per_s for one in found)
    processor_s = statistics.median(one.processor_s_per_gb for one in found)
    trip_us = 1e6 * statistics.median(one.round_trip_s for one in found)
    return LinkRow(
        transport,
        count,
        round(gb_per_s, 2),
        round(share, 3),
        round(processor_s, 3),
        round(trip_us, 1),
    )


@contextmanager
def _open(transport: str, count: int, folder: Path) -> Iterator[tuple[_Way, FarEnd]]:
    if transport.endswith("socket"):
        with _open_sockets(count, is_sealed=transport.startswith("sealed")) as opened:
            yield opened
        return
    identity = Identity.create()
    texts = [_listen_at(transport, folder / f"{count}-{number}") for number in range(count)]
    pair = [identity.public, identity.secret]
    with far_end("channels", pair, texts) as far, ExitStack() as stack:
        password = f"?password={identity.secret}" if transport == "tcp+plain" else ""
        addresses = [Address.parse(place + password) for place in far.places]
        channels = [stack.enter_context(ClientChannel(each, identity)) for each in addresses]
        yield _Channels(channels), far


@contextmanager
def _open_sockets(count: int, *, is_sealed: bool) -> Iterator[tuple[_Way, FarEnd]]:
    keys = [token_hex(32) for _ in range(count)]
    with far_end("sealed" if is_sealed else "bare", keys, ["127.0.0.1:0"] * count) as far:
        blocks: list[Blocks] = [
            SealedBlocks(bytes.fromhex(key), is_near=True) if is_sealed else PlainBlocks()
            for key in keys
        ]
        with closing(BareSockets(far.places, blocks)) as way:
            yield way, far


def _listen_at(transport: str, path: Path) -> str:
    return f"ipc://{path}" if transport == "ipc" else f"{transport}://127.0.0.1:0"


def _describe(row: LinkRow) -> str:
    return (
        f"{row.transport} x {row.connections}: {row.gb_per_s:.2f} GB/s, {row.share:.2f} of a bare "
        f"socket's; {row.processor_s_per_gb:.2f} s of processor time a GB; there and back "
        f"{row.round_trip_us:.0f} us"
    )


def find_roof(cores: int, rows: Sequence[LinkRow]) -> dict[str, float]:
    """GB/s: ``cores`` that do nothing but send and receive, and, where they encrypt, too, seal and
    open each byte once. ``copying`` and ``sealing`` are one core's."""
    bare_s = rows[0].processor_s_per_gb
    roof = {"plain": cores / bare_s, "copying": copying_speed()}
    if has_aes():
        roof["sealing"] = sealing_speed()
        roof["encrypted"] = cores / (bare_s + 1 / roof["sealing"])
    return {name: round(gb_per_s, 2) for name, gb_per_s in roof.items()}


def describe_roof(roof: dict[str, float]) -> str:
    """A line about what ``find_roof`` found."""
    plain = f"these cores could carry {roof['plain']:.1f} GB/s; a core copies {roof['copying']:.1f}"
    if "encrypted" not in roof:
        return f"{plain}; pip install cryptography shows what AES-256-GCM could do"
    return (
        f"{plain}, seals and opens {roof['sealing']:.1f} by AES-256-GCM; with that they could "
        f"carry {roof['encrypted']:.1f}"
    )


def run(write: Callable[[str], None], *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = LinkPlan(256 << 20, 200, 1, (1, 2)) if quick else LinkPlan()
    cores = len(os.sched_getaffinity(0))
    write(f"both ends on {cores} cores; the roof is the bare socket")
    rows = measure_transports(plan, write)
    roof = find_roof(cores, rows)
    write(describe_roof(roof))
    found: dict[str, Any] = {"cores": cores, "load": round(os.getloadavg()[0], 1), "roof": roof}
    write(json.dumps(found | {"rows": [asdict(row) for row in rows]}))
