"""A worker's loop: wait for a message, answer it, and end when told to."""

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
import zmq

from glinthawk.tier2.announcer import Announcer
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.worker import Worker
from glinthawk.wire.channel import LARGEST_FRAME
from glinthawk.wire.messages import Ping
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["largest_frame", "serve"]

#: Headers are smaller than this, whatever the KV memory.
_SMALL_FRAME = 1 << 24
#: A step's rows fit the KV memory; its queries are larger by their heads per KV head and their
#: type, smaller by the number of layers.
_QUERIES_OVER_KV = 64
#: How often a worker looks at what no message tells it.
_LOOK_MS = 200
#: How long a worker that is about to end gives a client to take note, whose KV is not here.
_PATIENCE_S = 5.0


def largest_frame(kv_bytes: int) -> int:
    """Bytes of the largest frame that a session over ``kv_bytes`` of KV memory can need."""
    return min(_SMALL_FRAME + _QUERIES_OVER_KV * kv_bytes, LARGEST_FRAME)


def serve(
    channel: ServerChannel,
    kv_bytes: int,
    device: torch.device | str = "cpu",
    *,
    files: Sequence[PageFile] = (),
    lifeline: int | None = None,
    stop: threading.Event | None = None,
    leave: threading.Event | None = None,
    announcer: Announcer | None = None,
) -> None:
    """Serve until ``lifeline``, a readable file descriptor, reaches its end, ``stop`` is set, or
    ``leave`` is and nobody's KV is here any more.

    A worker that was started for one run holds the read end of a pipe whose other end its parent
    owns: however the parent dies, the pipe ends, and so does the worker. ``stop`` is looked at
    when ``channel`` gets a message, so whoever sets it sends one; whoever sets ``leave`` writes to
    ``lifeline``. ``device`` is where the KV cache lies, but for what is in ``files``; ``announcer``
    tells a run that this worker would join it.
    """
    worker = Worker(kv_bytes, lambda client: channel.send(client, Ping()), device, files)
    poller = zmq.Poller()
    poller.register(channel.socket, zmq.POLLIN)
    if lifeline is not None:
        poller.register(lifeline, zmq.POLLIN)
    departure = _Departure(channel, worker, leave)
    while (stop is None or not stop.is_set()) and not departure.is_due():
        if announcer is not None and not departure.has_begun:
            announcer.look(worker.is_free)
        is_watching = announcer is not None or departure.has_begun
        ready: dict[Any, int] = dict(poller.poll(_LOOK_MS if is_watching else None))
        if lifeline is not None and lifeline in ready and not os.read(lifeline, 1):
            return
        if channel.socket in ready:
            _answer(channel, worker)


class _Departure:
    """Of a worker that is asked to go: its client is told, and empties it."""

    def __init__(
        self, channel: ServerChannel, worker: Worker, leave: threading.Event | None
    ) -> None:
        self._channel, self._worker, self._leave = channel, worker, leave
        self._begun_s: float | None = None

    @property
    def has_begun(self) -> bool:
        return self._begun_s is not None

    def is_due(self) -> bool:
        """Whether to go now: no client has a session here, or one that keeps nothing here does not
        say that it has understood."""
        if self._leave is None or not self._leave.is_set():
            return False
        if self._begun_s is None:
            self._begun_s = time.monotonic()
            if (told := self._worker.leave()) is not None:
                self._channel.send(*told)
        is_idle = self._worker.is_empty and time.monotonic() - self._begun_s > _PATIENCE_S
        return is_idle or self._worker.is_free


def _answer(channel: ServerChannel, worker: Worker) -> None:
    received = channel.take()
    if received is None:
        return
    client, frames = received
    answer = worker.handle(client, frames)
    if answer is not None:
        channel.send(client, *answer)
