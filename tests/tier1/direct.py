"""A worker at the end of a channel without sockets: it has answered before ``send`` returns."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from glinthawk.tier2.worker import Worker
from glinthawk.wire.address import Address
from glinthawk.wire.credit import Window
from glinthawk.wire.messages import FromTier1, FromWorker, decode, encode

__all__ = ["DirectChannel"]


class DirectChannel:
    """Stands where a ClientChannel does. Frames are copied, as a wire does it."""

    def __init__(self, kv_bytes: int) -> None:
        self.address = Address.parse("inproc://direct")
        self.worker = Worker(kv_bytes, lambda _client: True)
        self.sent: list[FromTier1] = []
        self.window = Window()
        self._answers: deque[tuple[Any, list[memoryview], int]] = deque()

    def send(self, message: FromTier1, frames: Sequence[memoryview] = ()) -> int:
        self.sent.append(message)
        parcel = [bytearray(encode(message)), *map(bytearray, frames)]
        answer = self.worker.handle(b"tier 1", [memoryview(frame) for frame in parcel])
        if answer is not None:
            self._answers.append(_parcel(*answer))
        return sum(map(len, parcel))

    def receive(self) -> tuple[Any, list[memoryview], int] | None:
        return self._answers.popleft() if self._answers else None


def _parcel(message: FromWorker, frames: Sequence[memoryview]) -> tuple[Any, list[memoryview], int]:
    copies = [memoryview(bytearray(frame)) for frame in frames]
    header = encode(message)
    return decode(header, FromWorker), copies, len(header) + sum(frame.nbytes for frame in copies)
