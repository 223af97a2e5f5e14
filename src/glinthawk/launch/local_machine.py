"""This machine's cores, shared out among what runs here, and this user's key pair."""

import os
from collections.abc import Sequence
from pathlib import Path

from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity

__all__ = ["load_identity", "share_cores", "share_threads"]


def share_cores(count: int) -> int:
    """Cores of each of ``count`` nodes on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, count))


def share_threads(num_local: int, cores: int | None = None) -> tuple[int, int]:
    """Threads of Tier 1 and of each local worker: ``cores``, or this machine's, shared equally."""
    cores = cores or len(os.sched_getaffinity(0))
    each = max(1, cores // (num_local + 1))
    return max(1, cores - num_local * each), each


def load_identity(source: Identity | Path | None, addresses: Sequence[Address]) -> Identity | None:
    """A key pair, that in a file, or this user's. Only if it is needed: it is made at first use."""
    if not any(address.scheme == "tcp" for address in addresses):
        return None
    return source if isinstance(source, Identity) else Identity.load(source)
