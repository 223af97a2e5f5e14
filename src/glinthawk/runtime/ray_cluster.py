"""Nodes and workers as actors of a Ray cluster, which is joined, or started here for one run.

Ray decides where each runs, starts it again when it dies, and ends it; what they say to each other
goes over our wire: tcp with CURVE, and one key pair that is made for the run and given to all.
"""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from glinthawk.core.cluster import NodePlan
from glinthawk.core.config import PRIVATE_FOLDER, EngineConfig
from glinthawk.core.errors import UsageError, WorkerLost
from glinthawk.runtime.places import Places
from glinthawk.wire.address import Address
from glinthawk.wire.channel import ServerChannel
from glinthawk.wire.keys import Identity

# Ray reads these when it is imported: nothing is reported to anyone, no advice is printed.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

try:
    import ray
except ImportError as error:
    raise UsageError("--cluster ray needs Ray: pip install 'glinthawk[ray]'") from error
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

__all__ = ["open_on_ray", "share_cpus"]

_PLACE_S = 60.0
#: Tensors never pass through Ray's object store; this is about the least that it takes.
_STORE_BYTES = 80 << 20
_HOST = "127.0.0.1"


class _Server:
    """An actor. Where it listens is chosen once; when Ray starts it again, it repeats the unended
    call with the same arguments, so that the actor listens there again."""

    def find_address(self) -> str:
        """A free port of this machine."""
        import glinthawk.runtime.stage  # noqa: F401 (takes seconds; nobody waits for us yet)

        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def serve_node(self, address: str, identity: Identity, threads: int) -> None:
        """Never returns."""
        from glinthawk.runtime.stage import serve_node

        with ServerChannel(Address.parse(address), identity, [identity.public]) as channel:
            serve_node(channel, identity, threads)

    def serve_worker(self, address: str, identity: Identity, threads: int, kv_bytes: int) -> None:
        """Never returns."""
        import torch

        from glinthawk.tier2.server import serve

        torch.set_num_threads(threads)
        with ServerChannel(Address.parse(address), identity, [identity.public]) as channel:
            serve(channel, kv_bytes)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many of what. ``cpus`` are for each node and for each worker."""

    slices: int
    workers: int
    gpus: int
    cpus: float
    kv_bytes: int

    def bundles(self) -> list[dict[str, float]]:
        """For each slice, what its node takes, then what its workers take."""
        node = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        worker = {"CPU": self.cpus, "memory": self.kv_bytes}
        return [node, *[worker] * self.workers] * self.slices


class _Actors:
    """What ``Pipeline`` asks of processes. The calls in ``nodes`` and ``workers`` never end."""

    def __init__(self, nodes: Sequence[Any], workers: Sequence[Any]) -> None:
        self._nodes, self._workers = list(nodes), list(workers)

    def check(self) -> None:
        """Raise WorkerLost if one has ended for good."""
        _raise_if_ended([*self._nodes, *self._workers])

    def revive(self) -> None:
        """Ray does. Raises WorkerLost for a node that cannot come back; workers can be missed."""
        _raise_if_ended(self._nodes)


def _raise_if_ended(calls: list[Any]) -> None:
    ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
    try:
        ray.get(ended)
    except RayError as error:
        words = str(error).strip().splitlines()
        raise WorkerLost(
            f"an actor cannot go on: {words[-1]}; run the same command again to resume"
        ) from error


@contextmanager
def open_on_ray(config: EngineConfig) -> Iterator[Places]:
    """Actors that serve until the block ends. Raises UsageError if there is no room for them."""
    with ExitStack() as stack:
        stack.enter_context(_connected())
        plan = _plan(config)
        group = stack.enter_context(_reserved(plan))
        actors = [
            stack.enter_context(_started(group, index, bundle))
            for index, bundle in enumerate(plan.bundles())
        ]
        yield _serve(plan, actors)


def _serve(plan: _Plan, actors: list[Any]) -> Places:
    identity, threads = Identity.create(), max(1, int(plan.cpus))
    found = _get([actor.find_address.remote() for actor in actors])
    size = 1 + plan.workers
    nodes, workers, entries = [], [], []
    for first in range(0, len(actors), size):
        node, *others = zip(actors[first : first + size], found[first : first + size], strict=True)
        nodes.append(node[0].serve_node.remote(node[1], identity, threads))
        for actor, address in others:
            call = actor.serve_worker.remote(address, identity, threads, plan.kv_bytes)
            workers.append(call)
        keyed = [f"{address}?key={identity.public}" for _, address in (node, *others)]
        device = "cuda" if plan.gpus else "cpu"
        entries.append(NodePlan(keyed[0], tuple(keyed[1:]), device=device))
    return Places(tuple(entries), identity, _Actors(nodes, workers))


def _get(calls: list[Any]) -> list[Any]:
    try:
        return list(ray.get(calls))
    except RayError as error:
        words = str(error).strip().splitlines()
        raise WorkerLost(
            f"an actor did not start: {words[-1]}; is the same glinthawk installed on every "
            "machine of the Ray cluster?"
        ) from error


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
    return _Plan(slices, workers, min(1, gpus), cpus, config.worker_kv_bytes)


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
    with tempfile.TemporaryDirectory(prefix=PRIVATE_FOLDER, ignore_cleanup_errors=True) as folder:
        try:
            _connect(folder)
            yield
        finally:
            ray.shutdown()


def _connect(folder: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise UsageError(f"no Ray cluster answers at RAY_ADDRESS={address}") from error
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address=_HOST,
            **quiet,
        )


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


@contextmanager
def _started(group: PlacementGroup, index: int, bundle: dict[str, float]) -> Iterator[Any]:
    actor = (
        ray.remote(_Server)
        .options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            memory=bundle.get("memory"),
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        )
        .remote()
    )
    try:
        yield actor
    finally:
        ray.kill(actor)
