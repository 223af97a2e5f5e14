"""Ray on several machines, all of them here, each at its own loopback address; and actors that fall
as ``frail`` processes do."""

import fcntl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from frail import LAST_WORDS, make_worker_fall, says
from glinthawk.engine.ray_node import NodeActor
from glinthawk.launch.ray_worker import WorkerActor

__all__ = ["add_machine", "first_machine", "frail_start", "the_only_ray"]

_STORE_BYTES = 80 << 20
#: A machine that refuses five questions in a row is lost.
_HEAD = {"include_dashboard": False, "_system_config": {"health_check_period_ms": 500}}


@contextmanager
def the_only_ray() -> Iterator[None]:
    """Who looks for a Ray on this machine would find that of another test."""
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def first_machine(cpus: int, memory: int) -> Iterator[Cluster]:
    """Ray on a first machine, which this process has joined."""
    with (
        the_only_ray(),
        # No other program here shall take this for its own.
        patch.object(ray._private.utils, "write_ray_address"),
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
    ):
        cluster = Cluster()
        try:
            add_machine(cluster, None, cpus, memory, temp_dir=folder, **_HEAD)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def add_machine(cluster: Cluster, address: str | None, cpus: int, memory: int, **more: Any) -> Any:
    """Another one, at ``address``."""
    where = {} if address is None else {"node_ip_address": address}
    return cluster.add_node(
        num_cpus=cpus, memory=memory, object_store_memory=_STORE_BYTES, **where, **more
    )


def _fall_if(poison: Path, when: str) -> None:
    if says(poison, when):
        raise RuntimeError(LAST_WORDS)


class FrailNode(NodeActor):
    def __init__(self, poison: Path, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._poison = poison

    def listen(self) -> str:
        _fall_if(self._poison, "node at start")
        return super().listen()


class FrailWorker(WorkerActor):
    def __init__(self, poison: Path, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._poison = poison

    def serve(self) -> None:
        make_worker_fall(self._poison, _fall_if)
        super().serve()


def frail_start(
    start: Callable[..., Any], poison: Path, bundles: Sequence[int]
) -> Callable[..., Any]:
    """As ``start``, with frail actors in these bundles."""

    def begin(kind: type, arguments: Sequence[Any], group: Any, index: int, bundle: Any) -> Any:
        if index in bundles:
            kind = FrailWorker if kind is WorkerActor else FrailNode
            arguments = (poison, *arguments)
        return start(kind, arguments, group, index, bundle)

    return begin
