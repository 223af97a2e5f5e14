"""Nodes and workers as actors of a Ray cluster, which is joined, or started here for one run.

Ray decides where each runs, and says when it has died; what they say to each other goes over our
wire: tcp with CURVE, and one key pair that is made for the run and given to all.
"""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray._private.services import find_bootstrap_address
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from glinthawk.core.cluster import NodePlan
from glinthawk.core.config import EngineConfig
from glinthawk.core.drives import Drive, parse_drives
from glinthawk.core.errors import UsageError
from glinthawk.launch.deployment import Deployment
from glinthawk.launch.ray_actors import Actors
from glinthawk.launch.ray_worker import WorkerActor
from glinthawk.wire.address import PRIVATE_FOLDER, Address
from glinthawk.wire.keys import Identity

__all__ = ["find_running", "open_on_ray", "own_folder", "share_cpus"]

_PLACE_S = 60.0
_ANSWER_S = 5.0
#: Tensors never pass through Ray's object store; this is about the least that it takes.
_STORE_BYTES = 80 << 20
_HOST = "127.0.0.1"
#: Waits for the end of its input, then removes a folder in which some may still be writing.
_SWEEP = 'cat; for _ in 1 2 3 4 5; do rm -rf "$1" && break; sleep 1; done'


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many of what. ``cpus`` are for each node and for each worker."""

    slices: int
    workers: int
    gpus: int
    cpus: float
    kv_bytes: int
    drives: tuple[Drive, ...]

    def bundles(self) -> list[dict[str, float]]:
        """For each slice, what its node takes, then what its workers take."""
        node = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        worker = {"CPU": self.cpus, "memory": self.kv_bytes}
        return [node, *[worker] * self.workers] * self.slices


@contextmanager
def open_on_ray(config: EngineConfig, node_actor: type) -> Iterator[Deployment]:
    """Actors that serve until the block ends; nodes are of class ``node_actor``. Raises UsageError
    if there is no room for them."""
    with ExitStack() as stack:
        stack.enter_context(_connected())
        plan = _plan(config)
        group = stack.enter_context(_reserved(plan))
        identity = Identity.create()
        actors = stack.enter_context(
            Actors(_starts(plan, group, identity, node_actor), identity.public)
        )
        yield Deployment(_nodes(plan, actors.addresses), identity, actors)


def _nodes(plan: _Plan, addresses: Sequence[Address]) -> tuple[NodePlan, ...]:
    """``addresses`` are in the order of the bundles."""
    texts, size = [address.text for address in addresses], 1 + plan.workers
    device = "cuda" if plan.gpus else "cpu"
    return tuple(
        NodePlan(texts[first], tuple(texts[first + 1 : first + size]), device=device)
        for first in range(0, len(texts), size)
    )


def _plan(config: EngineConfig) -> _Plan:
    """What was asked for; else a slice for every GPU, and a worker for every machine."""
    gpus = 0 if config.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
    if config.device == "cuda" and not gpus:
        raise UsageError("there is no GPU in the Ray cluster; use --device cpu or auto")
    hosts = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    slices = config.slices or max(1, gpus)
    workers = config.workers_per_slice
    workers = max(1, len(hosts) // slices) if workers is None else workers
    cpus = share_cpus(hosts, slices * (1 + workers))
    drives = parse_drives(config.worker_storage)
    return _Plan(slices, workers, min(1, gpus), cpus, config.worker_kv_bytes, drives)


def share_cpus(hosts: Sequence[float], count: int) -> float:
    """The most CPUs, whole ones or a part of one, that ``count`` actors can have each.

    >>> share_cpus([4, 4, 4], 4), share_cpus([2], 6)
    (2, 0.3333)
    """
    for cpus in range(int(max(hosts, default=0)), 0, -1):
        if sum(host // cpus for host in hosts) >= count:
            return cpus
    for actors in range(2, count + 1):  # on one CPU; Ray counts to a ten-thousandth
        if sum(int(host) * actors for host in hosts) >= count:
            return int(10_000 / actors) / 10_000
    raise UsageError("the Ray cluster has no CPUs")


@contextmanager
def _connected() -> Iterator[None]:
    """Ray as this process has it already, or the one that runs here, or a new one until the end."""
    if ray.is_initialized():
        yield
        return
    with own_folder() as folder:
        try:
            _connect(find_running(), folder)
            yield
        finally:
            ray.shutdown()


@contextmanager
def own_folder() -> Iterator[str]:
    """For Ray's logs and sockets. Whoever removes it also does when this process is killed, once
    its end of the pipe is closed, and Ray's processes, which end with this one, are gone."""
    folder = tempfile.mkdtemp(prefix=PRIVATE_FOLDER)
    command = ["sh", "-c", _SWEEP, "sh", folder]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet):
        yield folder


def find_running() -> str | None:
    """The cluster that RAY_ADDRESS names, or that `ray start` made here, if that is still there.

    Not any other whose processes are found here, as Ray's "auto" would have it: that may be another
    run's own, or the last one's that is just ending. Raises UsageError.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        if "://" not in address and ":" in address and not _listens(address):
            raise UsageError(f"no Ray cluster answers at RAY_ADDRESS={address}")
        return address
    started = find_bootstrap_address(None)
    return started if started is not None and _listens(started) else None


def _listens(address: str) -> bool:
    """Whether anybody does; Ray itself would ask for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _connect(address: str | None, folder: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address=_HOST,
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise UsageError(
            f"the Ray cluster at {address} does not answer; if it asks for a token, give the same "
            "RAY_AUTH_MODE and RAY_AUTH_TOKEN as it has"
        ) from error


@contextmanager
def _reserved(plan: _Plan) -> Iterator[PlacementGroup]:
    """Room for all or for none. A node goes where its GPU is; workers, whose memory and bandwidth
    count, go to as many machines as there are."""
    bundles = plan.bundles()
    group = placement_group(bundles, strategy="SPREAD")
    try:
        if not group.wait(_PLACE_S):
            raise UsageError(
                f"the Ray cluster has no room for {plan.slices} nodes and "
                f"{plan.slices * plan.workers} workers, which ask for {bundles[0]} and "
                f"{bundles[-1]} each; give smaller --slices, --workers-per-slice or --worker-kv"
            )
        yield group
    finally:
        remove_placement_group(group)


def _starts(
    plan: _Plan, group: PlacementGroup, identity: Identity, node_actor: type
) -> list[tuple[str, Callable[[], Any]]]:
    """Each actor's name, and what starts it in its bundle, again if need be."""
    threads, size = max(1, int(plan.cpus)), 1 + plan.workers
    starts: list[tuple[str, Callable[[], Any]]] = []
    for index, bundle in enumerate(plan.bundles()):
        name, place = f"node {1 + index // size}", index % size
        start = partial(_start, node_actor, (identity, threads), group, index, bundle)
        if place:
            name = f"worker {place} of {name}"
            arguments = identity, threads, plan.kv_bytes, plan.drives
            start = partial(_start, WorkerActor, arguments, group, index, bundle)
        starts.append((name, start))
    return starts


def _start(
    kind: type,
    arguments: Sequence[Any],
    group: PlacementGroup,
    index: int,
    bundle: dict[str, float],
) -> Any:
    options = ray.remote(kind).options(
        num_cpus=bundle["CPU"],
        num_gpus=bundle.get("GPU", 0),
        memory=bundle.get("memory"),
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
    )
    return options.remote(*arguments)
