"""Tensors on their way between a device and the wire.

Nothing here waits for a device unless it is asked to: what is copied from one comes with an event,
and an ``Outbox`` holds the message back until that has happened, and until the link has room.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

__all__ = [
    "CudaStaging",
    "Event",
    "HostStaging",
    "Outbox",
    "Staging",
    "make_staging",
    "upload",
]


class Event(Protocol):
    """Something that will have happened; a ``torch.cuda.Event`` is one."""

    def query(self) -> bool:
        """Whether it has."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...


class Staging(Protocol):
    """Copies between tensors on a device and bytes in the host's memory."""

    def copy_out(self, tensors: Sequence[torch.Tensor]) -> tuple[list[memoryview], Event | None]:
        """Row-major bytes of each tensor, which are there once the event (None: now) has happened.

        The tensors may be freed at once, but not written to before the event.
        """
        ...

    def copy_in(
        self, frame: memoryview, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> torch.Tensor:
        """A tensor on the device of the bytes in ``frame``, whose size fits."""
        ...


class HostStaging:
    """For tensors that are in the host's memory already."""

    def copy_out(self, tensors: Sequence[torch.Tensor]) -> tuple[list[memoryview], None]:
        """No model writes to its q, k, v again, so a tensor that is contiguous already travels
        without a copy."""
        return [_to_bytes(tensor.contiguous()) for tensor in tensors], None

    def copy_in(
        self, frame: memoryview, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> torch.Tensor:
        return torch.frombuffer(frame, dtype=dtype).view(shape)


class CudaStaging:
    """For a GPU: copies run on streams of their own, beside what the GPU computes.

    Pinned memory is new for every copy. torch keeps what was freed and gives it out again when the
    copies from or to it are over; ZeroMQ frees what it has sent.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._outward = torch.cuda.Stream(device)
        self._inward = torch.cuda.Stream(device)

    def copy_out(
        self, tensors: Sequence[torch.Tensor]
    ) -> tuple[list[memoryview], torch.cuda.Event]:
        # The tensors are computed by what was launched so far.
        self._outward.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._outward):
            frames = [_to_bytes(self._pinned_copy(tensor)) for tensor in tensors]
        return frames, self._outward.record_event()

    def _pinned_copy(self, tensor: torch.Tensor) -> torch.Tensor:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._outward)  # its memory is not given out again before that
        return pinned

    def copy_in(
        self, frame: memoryview, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> torch.Tensor:
        pinned = torch.empty(shape, dtype=dtype, pin_memory=True)
        pinned.copy_(torch.frombuffer(frame, dtype=dtype).view(shape))
        with torch.cuda.stream(self._inward):
            tensor = pinned.to(self._device, non_blocking=True)
        reader = torch.cuda.current_stream(self._device)
        reader.wait_stream(self._inward)
        tensor.record_stream(reader)
        return tensor


def make_staging(device: torch.device) -> Staging:
    """The staging for tensors on ``device``."""
    return CudaStaging(device) if device.type == "cuda" else HostStaging()


def upload(numbers: list[int], device: torch.device) -> torch.Tensor:
    """``numbers`` (N,) on ``device``, without waiting for what runs there."""
    tensor = torch.tensor(numbers, dtype=torch.long)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class _Parcel(NamedTuple):
    send: Callable[[], None]
    num_bytes: int
    copied: Event | None
    step: int | None

    def is_copied(self, wait: bool) -> bool:
        if self.copied is None or self.copied.query():
            return True
        if wait:
            self.copied.synchronize()
        return wait


class Outbox:
    """Messages in the order in which they are put, each held back until its bytes are there, and
    until ``has_room``: whether the next message may leave."""

    def __init__(self, has_room: Callable[[], bool] = lambda: True) -> None:
        self._has_room = has_room
        self._parcels: deque[_Parcel] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._parcels

    @property
    def num_bytes(self) -> int:
        """That are held back."""
        return sum(parcel.num_bytes for parcel in self._parcels)

    def put(
        self,
        send: Callable[[], None],
        num_bytes: int = 0,
        copied: Event | None = None,
        step: int | None = None,
    ) -> None:
        """Call ``send``, which sends ``num_bytes`` or some more, when ``copied`` has happened,
        there is room and all before it are sent."""
        self._parcels.append(_Parcel(send, num_bytes, copied, step))
        self.flush()

    def flush(self, wait: bool = False) -> bool:
        """Send what can be sent, with ``wait`` also what is still being copied; whether the next
        one waits for its bytes. Who waits for room hears from the other side."""
        while self._parcels and self._has_room():
            if not self._parcels[0].is_copied(wait):
                return True
            self._parcels.popleft().send()
        return False

    def drop(self, step: int) -> None:
        """Forget what was put with this ``step`` and is still here."""
        self._parcels = deque(parcel for parcel in self._parcels if parcel.step != step)

    def clear(self) -> None:
        """Forget everything that is still here."""
        self._parcels.clear()


def _to_bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.view(torch.uint8).numpy().data.cast("B")
