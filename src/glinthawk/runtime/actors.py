"""What runs in the actors of a Ray cluster. Imports little: a worker needs no model's code.

Where an actor listens is chosen once. When Ray starts it again, it repeats the call that has not
ended with the same arguments, so the actor listens there again and everyone finds it.
"""

import socket

import ray

from glinthawk.core.drives import Drive
from glinthawk.wire.address import Address
from glinthawk.wire.channel import ServerChannel
from glinthawk.wire.keys import Identity

__all__ = ["NodeActor", "WorkerActor"]


class NodeActor:
    """A Tier-1 node."""

    def find_address(self) -> str:
        """A free port of this machine, once all is imported, which takes seconds."""
        import glinthawk.runtime.stage  # noqa: F401

        return _free_address()

    def serve(
        self,
        address: str,
        identity: Identity,
        threads: int,
        _kv_bytes: int,
        _drives: tuple[Drive, ...],
    ) -> None:
        """Never returns."""
        from glinthawk.runtime.stage import serve_node

        with ServerChannel(Address.parse(address), identity, [identity.public]) as channel:
            serve_node(channel, identity, threads)


class WorkerActor:
    """A Tier-2 worker."""

    def find_address(self) -> str:
        """As a node does."""
        import glinthawk.tier2.server  # noqa: F401

        return _free_address()

    def serve(
        self,
        address: str,
        identity: Identity,
        threads: int,
        kv_bytes: int,
        drives: tuple[Drive, ...],
    ) -> None:
        """Never returns."""
        import torch

        from glinthawk.tier2.page_files import PageFiles
        from glinthawk.tier2.server import serve

        torch.set_num_threads(threads)
        with (
            PageFiles(drives) as files,
            ServerChannel(Address.parse(address), identity, [identity.public]) as channel,
        ):
            serve(channel, kv_bytes, files=files)


def _free_address() -> str:
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"tcp://{host}:{probe.getsockname()[1]}"
