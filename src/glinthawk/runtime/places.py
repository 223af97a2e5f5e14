"""Where a pipeline's nodes and workers run: as a cluster file says, or as Ray does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from glinthawk.core.cluster import LOCAL, Cluster, NodePlan
from glinthawk.core.config import RAY, EngineConfig
from glinthawk.runtime.opening import load_identity, share_cores
from glinthawk.runtime.processes import local_nodes
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity

__all__ = ["Places", "Processes", "open_places"]


class Processes(Protocol):
    """Those that were started for the run."""

    def check(self) -> None:
        """Raise WorkerLost if one has died."""
        ...

    def revive(self) -> None:
        """Start those again that have died."""
        ...


@dataclass(frozen=True, slots=True)
class Places:
    """Nodes, each with an address now, and the key pair with which they are joined."""

    nodes: tuple[NodePlan, ...]
    identity: Identity | None
    processes: Processes


@contextmanager
def open_places(config: EngineConfig) -> Iterator[Places]:
    """Start what is to be started; end it with the block."""
    if config.cluster == RAY:
        from glinthawk.runtime.ray_cluster import open_on_ray  # an extra

        with open_on_ray(config) as places:
            yield places
    else:
        with _open_file(config) as places:
            yield places


@contextmanager
def _open_file(config: EngineConfig) -> Iterator[Places]:
    assert config.cluster is not None
    nodes = Cluster.load(Path(config.cluster)).nodes
    num_local = sum(node.address == LOCAL for node in nodes)
    with local_nodes(num_local, share_cores(num_local)) as local:
        here = iter(local.addresses)
        nodes = tuple(
            replace(node, address=next(here).text) if node.address == LOCAL else node
            for node in nodes
        )
        addresses = [Address.parse(node.address) for node in nodes]
        identity_file = Path(config.identity) if config.identity else None
        yield Places(nodes, load_identity(identity_file, addresses), local)
