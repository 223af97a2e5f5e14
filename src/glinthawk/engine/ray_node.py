"""A node of a pipeline in an actor of a Ray cluster."""

from glinthawk.launch.ray_worker import listen_here
from glinthawk.wire.keys import Identity

__all__ = ["NodeActor"]


class NodeActor:
    """A Tier-1 node."""

    def __init__(self, identity: Identity, threads: int) -> None:
        self._identity, self._threads = identity, threads

    def listen(self) -> str:
        """Where, once all is imported, which takes seconds."""
        import glinthawk.engine.pipeline_node  # noqa: F401

        self._channel = listen_here(self._identity)
        return self._channel.endpoint

    def serve(self) -> None:
        """Never returns."""
        from glinthawk.engine.pipeline_node import serve_node

        serve_node(self._channel, self._identity, self._threads)
