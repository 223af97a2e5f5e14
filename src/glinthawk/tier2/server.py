"""A worker's loop: wait for a message, answer it, and end when told to."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
import zmq

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
) -> None:
    """Serve until ``lifeline``, a readable file descriptor, reaches its end or ``stop`` is set.

    A worker that was started for one run holds the read end of a pipe whose other end its parent
    owns: however the parent dies, the pipe ends, and so does the worker. ``stop`` is looked at
    when ``channel`` gets a message, so whoever sets it sends one. ``device`` is where the
    KV cache lies, but for what is in ``files``.
    """
    worker = Worker(kv_bytes, lambda client: channel.send(client, Ping()), device, files)
    poller = zmq.Poller()
    poller.register(channel.socket, zmq.POLLIN)
    if lifeline is not None:
        poller.register(lifeline, zmq.POLLIN)
    while stop is None or not stop.is_set():
        ready: dict[Any, int] = dict(poller.poll())
        if lifeline is not None and lifeline in ready and not os.read(lifeline, 1):
            return
        if channel.socket in ready:
            _answer(channel, worker)


def _answer(channel: ServerChannel, worker: Worker) -> None:
    received = channel.take()
    if received is None:
        return
    client, frames = received
    answer = worker.handle(client, frames)
    if answer is not None:
        channel.send(client, *answer)
