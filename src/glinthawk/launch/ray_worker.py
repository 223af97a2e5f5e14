"""A worker in an actor of a Ray cluster. Imports little: it needs no model's code.

An actor listens on a free port of the machine that Ray has put it on, and dies with whatever it
meets there. The run starts another one in its place, which may be put elsewhere.
"""

import ray

from glinthawk.core.drives import Drive
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity
from glinthawk.wire.server_channel import ServerChannel

__all__ = ["WorkerActor", "listen_here"]


class WorkerActor:
    """A Tier-2 worker."""

    def __init__(
        self, identity: Identity, threads: int, kv_bytes: int, drives: tuple[Drive, ...]
    ) -> None:
        self._identity, self._threads = identity, threads
        self._kv_bytes, self._drives = kv_bytes, drives

    def listen(self) -> str:
        """Where, once all is imported, which takes seconds."""
        import glinthawk.tier2.server  # noqa: F401

        self._channel = listen_here(self._identity)
        return self._channel.endpoint

    def serve(self) -> None:
        """Never returns."""
        import torch

        from glinthawk.tier2.pages.page_files import PageFiles
        from glinthawk.tier2.server import serve

        torch.set_num_threads(self._threads)
        with PageFiles(self._drives) as files:
            serve(self._channel, self._kv_bytes, files=files)


def listen_here(identity: Identity) -> ServerChannel:
    """On a free port of the machine of this actor."""
    address = Address.parse(f"tcp://{ray.util.get_node_ip_address()}:0")
    return ServerChannel(address, identity, [identity.public])
