"""A session at one worker, as Tier 1 sees it: parcels leave as soon as their bytes are in the
host's memory and the link has room, in the order in which they were given; answers are collected by
``receive``."""

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WireError, WorkerLost, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.device.staging import Outbox, Staging, make_staging
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Ask,
    Attend,
    Attended,
    Begin,
    BeginPart,
    Bye,
    Fault,
    Fetch,
    Fetched,
    FromTier1,
    Leaving,
    Message,
    Open,
    Opened,
    Ping,
    Stats,
    Store,
    Stored,
)

__all__ = ["Answer", "Link", "Received", "Traffic"]

#: Of a worker's fault.
_LONGEST_WORDS = 1000

#: What was asked for rows that attend.
Answer = Attended | Fetched
#: News of a step, and its frames.
Received = tuple[Answer | Stored, list[memoryview]]


class Traffic:
    """Bytes that crossed one link, header frames included.

    Prompts behind a shared prefix are attended at home as decode rows are, and count with them.
    """

    def __init__(self) -> None:
        self.decode_bytes_out = 0
        self.decode_bytes_back = 0
        self.prefill_bytes = 0

    def count(self, message: FromTier1, num_bytes: int) -> None:
        """A message that left; those that belong to no step are not counted."""
        match message:
            case Store():
                self.prefill_bytes += num_bytes
            case BeginPart(views=views) if views:
                self.decode_bytes_out += num_bytes
            case Begin(extends=extends) if not extends.sequences:
                self.prefill_bytes += num_bytes
            case Begin() | Attend() | Fetch():
                self.decode_bytes_out += num_bytes


class Link:
    """One worker's session. Its errors name ``home``, which it is all or a part of."""

    def __init__(
        self,
        home: int,
        channel: ClientChannel,
        device: torch.device,
        staging: Staging | None = None,
    ) -> None:
        self.channel = channel
        self.traffic = Traffic()
        self.num_pages = self.page_tokens = self.most_sequences = 0
        #: What attends there.
        self.kernel = ""
        #: Whether the worker wants to go.
        self.is_leaving = False
        self._home = home
        self._staging = staging or make_staging(device)
        self._outbox = Outbox(channel.window.has_room)

    def open(
        self,
        layers: Sequence[AttentionLayer],
        wire_dtype: str,
        kv_dtype: str,
        views: Sequence[int] = (),
        fetches: bool = False,
    ) -> None:
        """Ask for a session; ``await_open`` takes the answer."""
        self.send(Open(VERSION, list(layers), wire_dtype, kv_dtype, list(views), fetches))

    def await_open(self, timeout_s: float) -> None:
        """Return at once when the session is open already. Raises WorkerRefused, or WorkerLost when
        no answer comes in time."""
        if not self.num_pages:
            self._take_opened(self._await(Opened, timeout_s))

    def has_opened(self) -> bool:
        """Whether the session stands by now. Raises WorkerRefused or WorkerLost."""
        if not self.num_pages and (received := self._next()) is not None:
            if not isinstance(received[0], Leaving | Opened):
                raise WireError(f"unexpected answer {received[0]}", home=self._home)
            if isinstance(received[0], Opened):
                self._take_opened(received[0])
        if not self.num_pages and self.is_stalled:
            endpoint = self.channel.address.endpoint
            raise WorkerLost(f"{endpoint} does not answer, and has nothing to do", home=self._home)
        return self.num_pages > 0

    def _take_opened(self, message: Opened) -> None:
        if message.page_tokens != PAGE_TOKENS:
            raise WireError(
                f"worker {self.channel.address.endpoint} has pages of {message.page_tokens} "
                f"tokens, not {PAGE_TOKENS}; install the same glinthawk on both machines",
                home=self._home,
            )
        self.num_pages, self.page_tokens = message.num_pages, message.page_tokens
        self.most_sequences, self.kernel = message.most_sequences, message.kernel

    @property
    def is_full(self) -> bool:
        """Whether as much is under way as may be, with what waits here. What is sent all the same
        waits here too: who asks first never has more here than it sends between two questions."""
        return not self.channel.window.has_room(self._outbox.num_bytes)

    def send(self, message: FromTier1) -> None:
        """Send, behind the parcels that still wait for their bytes, or for room."""
        self._outbox.put(partial(self._deliver, message))

    def send_tensors(
        self, message: Attend | Fetch | Store, tensors: Sequence[torch.Tensor]
    ) -> None:
        """Send a parcel; until it has left, nobody may write to ``tensors``."""
        frames, copied = self._staging.copy_out(tensors)
        num_bytes = sum(frame.nbytes for frame in frames)
        self._outbox.put(partial(self._deliver, message, frames), num_bytes, copied, message.step)

    def abandon(self, step: int) -> None:
        """Parcels of a step that still wait are not sent; the worker forgets the step."""
        self._outbox.drop(step)
        self.send(Abandon(step))

    def flush(self) -> bool:
        """Send the parcels whose bytes have arrived, as far as there is room; whether the next one
        still waits for its bytes."""
        return self._outbox.flush()

    @property
    def is_stalled(self) -> bool:
        """Whether no answer will come any more to what was sent so far."""
        self.flush()
        return self._outbox.is_empty and self.channel.is_stalled

    def receive(self) -> list[Received]:
        """Everything that has arrived. Raises WorkerLost when the worker is gone, or a message."""
        news: list[Received] = []
        while (received := self._next()) is not None:
            message, frames, num_bytes = received
            match message:
                case Attended() | Fetched():
                    self.traffic.decode_bytes_back += num_bytes
                    news.append((message, frames))
                case Stored():
                    self.traffic.prefill_bytes += num_bytes
                    news.append((message, frames))
        return news

    def expect(self, holds: bool, message: Message) -> None:
        """Raise WireError for an answer that nobody asked for."""
        if not holds:
            raise WireError(f"the worker answers what nobody asked: {message}", home=self._home)

    def take_in(
        self, frame: memoryview, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> torch.Tensor:
        """The tensor that came as ``frame``. Raises WireError when that has another size."""
        expected = dtype.itemsize * torch.Size(shape).numel()
        if frame.nbytes != expected:
            raise WireError(
                f"an answer of the wrong size: {frame.nbytes} bytes, not {expected}",
                home=self._home,
            )
        return self._staging.copy_in(frame, dtype, shape)

    def ask(self, timeout_s: float) -> Stats:
        """The worker's own count of its work."""
        self.send(Ask())
        stats: Stats = self._await(Stats, timeout_s)
        return stats

    def close(self) -> None:
        """End the session."""
        self._outbox.clear()
        self._deliver(Bye())  # though the link be full
        self.channel.socket.linger = 1_000
        self.channel.close()

    def _deliver(self, message: FromTier1, frames: Sequence[memoryview] = ()) -> None:
        """A message that finds no connection is dropped: ``receive`` tells that the worker is gone,
        at the one place where that is handled."""
        with contextlib.suppress(WorkerLost):
            self.traffic.count(message, self.channel.send(message, frames))

    def _next(self) -> tuple[Message, list[memoryview], int] | None:
        try:
            received = self.channel.receive()
        except (WireError, WorkerLost) as error:
            raise type(error)(str(error), home=self._home) from error
        if received is not None and isinstance(received[0], Leaving):
            self.is_leaving = True
        if received is not None and isinstance(received[0], Fault):
            kind = WorkerRefused if received[0].refused else WireError
            endpoint = self.channel.address.endpoint
            raise kind(f"worker {endpoint}: {_printable(received[0].text)}", home=self._home)
        return received

    def _await(self, kind: Any, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            received = self._next()
            if received is None:
                self._outbox.flush(wait=True)
                self.channel.wait(left)
            elif isinstance(received[0], kind):
                return received[0]
            elif not isinstance(received[0], Leaving | Ping | Attended | Fetched | Stored):
                raise WireError(f"unexpected answer {received[0]}", home=self._home)
        raise WorkerLost(
            f"no answer from {self.channel.address.endpoint} in {timeout_s:g} s", home=self._home
        )


def _printable(text: str) -> str:
    """What another machine says, fit for a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_WORDS])
