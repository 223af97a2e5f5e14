"""Where a pipeline's nodes and workers run: as a cluster file says, or as Ray does."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from glinthawk.core.cluster import LOCAL, Cluster, NodePlan
from glinthawk.core.config import RAY, EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.runtime.opening import load_identity, share_cores
from glinthawk.runtime.processes import local_nodes
from glinthawk.runtime.revival import Fate
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity

__all__ = ["Places", "Processes", "open_places"]


class Processes(Protocol):
    """Those that were started for the run."""

    def check(self) -> None:
        """Raise WorkerLost if one has died."""
        ...

    def worked(self, address: Address) -> None:
        """The process at ``address`` has done something, if it is one of these."""
        ...

    def revive(self) -> dict[Address, Address]:
        """Start those again that have died. Who listens elsewhere since then: old address, new."""
        ...

    def fates(self) -> dict[Address, Fate]:
        """Of those that have died and not worked since."""
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
    open_them = _ray_opener() if config.cluster == RAY else _open_file
    with open_them(config) as places:
        yield places


def _ray_opener() -> Callable[[EngineConfig], AbstractContextManager[Places]]:
    # Ray reads these when it is imported: nothing is reported to anyone, and nothing is printed,
    # not even when its daemons see an actor killed, which is how all end.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        from glinthawk.runtime.ray_cluster import open_on_ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError("--cluster ray needs Ray: pip install 'glinthawk[ray]'") from error
    return open_on_ray


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
