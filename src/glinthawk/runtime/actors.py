"""What runs in the actors of a Ray cluster. Imports little: a worker needs no model's code.

An actor listens on a free port of the machine that Ray has put it on, and dies with whatever it
meets there. The run starts another one in its place, which may be put elsewhere.
"""

import ray

from glinthawk.core.drives import Drive
from glinthawk.wire.address import Address
from glinthawk.wire.channel import ServerChannel
from glinthawk.wire.keys import Identity

__all__ = ["NodeActor", "WorkerActor"]


class NodeActor:
    """A Tier-1 node."""

    def __init__(self, identity: Identity, threads: int) -> None:
        self._identity, self._threads = identity, threads

    def listen(self) -> str:
        """Where, once all is imported, which takes seconds."""
        import glinthawk.runtime.stage  # noqa: F401

        self._channel = _listen(self._identity)
        return self._channel.endpoint

    def serve(self) -> None:
        """Never returns."""
        from glinthawk.runtime.stage import serve_node

        serve_node(self._channel, self._identity, self._threads)


class WorkerActor:
    """A Tier-2 worker."""

    def __init__(
        self, identity: Identity, threads: int, kv_bytes: int, drives: tuple[Drive, ...]
    ) -> None:
        self._identity, self._threads = identity, threads
        self._kv_bytes, self._drives = kv_bytes, drives

    def listen(self) -> str:
        """As a node does."""
        import glinthawk.tier2.server  # noqa: F401

        self._channel = _listen(self._identity)
        return self._channel.endpoint

    def serve(self) -> None:
        """Never returns."""
        import torch

        from glinthawk.tier2.pages.page_files import PageFiles
        from glinthawk.tier2.server import serve

        torch.set_num_threads(self._threads)
        with PageFiles(self._drives) as files:
            serve(self._channel, self._kv_bytes, files=files)


def _listen(identity: Identity) -> ServerChannel:
    address = Address.parse(f"tcp://{ray.util.get_node_ip_address()}:0")
    return ServerChannel(address, identity, [identity.public])
