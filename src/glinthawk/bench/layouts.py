"""Tiers laid over cores: what the benchmarks of two tiers have in common."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from glinthawk.bench.relay import Relay, slow_link
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.drives import Drive
from glinthawk.core.spec import AttentionLayer
from glinthawk.launch.local_machine import load_identity
from glinthawk.launch.local_processes import local_workers
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel

__all__ = [
    "START_S",
    "far_worker_on",
    "kv_bytes",
    "on_cores",
    "open_home",
    "worker_at",
    "worker_on",
]

#: Seconds that a worker may take to answer.
START_S = 60.0


@contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """Run this thread, and as many of torch's, on ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(len(before))


def kv_bytes(layers: Sequence[AttentionLayer], sequences: int, context: int, kv_dtype: str) -> int:
    """Memory for ``sequences`` of ``context`` tokens and one more."""
    choice = BackendChoice(tuple(layers), kv_dtype, torch.device("cpu"))
    return sequences * (context // PAGE_TOKENS + 1) * choice.page_bytes


@contextmanager
def worker_on(
    cores: list[int], num_bytes: int, threads: int = 1, drives: Sequence[Drive] = ()
) -> Iterator[Address]:
    """A worker with so many threads on ``cores``."""
    with ExitStack() as stack:
        with on_cores(cores):  # a process starts where its parent runs
            workers = stack.enter_context(local_workers(1, num_bytes, threads, drives))
        yield workers.addresses[0]


@contextmanager
def worker_at(address: Address) -> Iterator[Address]:
    """A worker that runs already."""
    yield address


@contextmanager
def far_worker_on(
    cores: list[int], num_bytes: int, delay_s: float = 0.0, drives: Sequence[Drive] = ()
) -> Iterator[tuple[Address, Relay]]:
    """A worker on ``cores`` at the end of a link of ``delay_s`` each way, which may change."""
    with ExitStack() as stack:
        near = stack.enter_context(worker_on(cores, num_bytes, drives=drives))
        with on_cores(cores):
            socket = Path(near.endpoint.removeprefix("ipc://"))
            relay = stack.enter_context(slow_link(socket, delay_s))
        yield Address.parse(f"ipc://{relay.path}"), relay


@contextmanager
def open_home(
    address: Address, loaded: LoadedModel, kv_dtype: str, number: int = 1
) -> Iterator[RemoteHome]:
    """A session at the worker, as home ``number``."""
    channel = ClientChannel(address, load_identity(None, [address]))
    home = RemoteHome(number, channel, loaded.spec, loaded.model.device)
    try:
        home.open(kv_dtype)
        home.await_open(START_S)
        yield home
    finally:
        home.close()
