"""The nodes and workers of a run over several machines, started or found."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from glinthawk.core.cluster import LOCAL, Cluster
from glinthawk.core.config import RAY, EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.launch.deployment import Deployment
from glinthawk.launch.local_machine import load_identity, share_cores
from glinthawk.launch.local_processes import local_nodes
from glinthawk.wire.address import Address

__all__ = ["open_deployment"]


@contextmanager
def open_deployment(config: EngineConfig, node_actor: Callable[[], type]) -> Iterator[Deployment]:
    """As a cluster file says, or as Ray does, where nodes are actors of the class that
    ``node_actor`` imports: start what is to be started; end it with the block."""
    opened = _open_on_ray(config, node_actor) if config.cluster == RAY else _open_file(config)
    with opened as deployment:
        yield deployment


def _open_on_ray(
    config: EngineConfig, node_actor: Callable[[], type]
) -> AbstractContextManager[Deployment]:
    # Ray reads these when it is imported: nothing is reported to anyone, and nothing is printed,
    # not even when its daemons see an actor killed, which is how all end.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        from glinthawk.launch.ray_cluster import open_on_ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError("--cluster ray needs Ray: pip install 'glinthawk[ray]'") from error
    return open_on_ray(config, node_actor())


@contextmanager
def _open_file(config: EngineConfig) -> Iterator[Deployment]:
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
        yield Deployment(nodes, load_identity(identity_file, addresses), local)
