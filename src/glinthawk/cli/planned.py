"""A run's configuration from a plan."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from glinthawk.core.cluster import Cluster
from glinthawk.core.config import RAY
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.core.units import format_size
from glinthawk.launch.local_processes import parse_tier2
from glinthawk.planner.known_models import same_model

__all__ = ["follow"]

_TAKEN = ("kv_dtype", "batch_size", "batches_in_flight", "batch_tokens", "tier1_kv", "worker_kv")


def follow(plan: Plan, settings: Mapping[str, Any], given: Set[str]) -> dict[str, Any]:
    """What ``plan`` says in place of ``settings`` (of EngineConfig), but for what is ``given``.

    Raises UsageError if the plan is of another model or for other machines.
    """
    model = settings["model"]
    if not same_model(plan.model, model):
        raise UsageError(
            f"the plan is for {plan.model}, not {model}: make one with `glinthawk plan -m {model} "
            f"--out FILE`, or give -m {plan.model}"
        )
    planned: dict[str, Any] = {name: getattr(plan, name) for name in _TAKEN}
    if not plan.worker_kv:
        del planned["worker_kv"]
    if plan.xcache:
        planned["xcache"] = plan.xcache
    if plan.kv_placement != "near":
        planned["kv_placement"] = plan.kv_placement
    planned |= _places(plan, settings["cluster"], settings["tier2"])
    if plan.worker_storage and "worker_storage" not in given:
        _check_storage(plan, settings["cluster"], planned.get("tier2", settings["tier2"]))
    return {name: value for name, value in planned.items() if name not in given}


def _places(plan: Plan, cluster: str | None, tier2: Sequence[str]) -> dict[str, Any]:
    """Workers to start here, or numbers for Ray; a cluster file must have the plan's."""
    if cluster == RAY:
        return {"slices": plan.slices, "workers_per_slice": plan.workers_per_slice}
    if cluster is not None:
        _check_cluster(plan, Path(cluster))
        return {}
    if plan.slices > 1:
        raise UsageError(
            f"the plan has {plan.slices} slices: name their machines with --cluster FILE "
            f"({plan.slices} [[nodes]] of {plan.workers_per_slice} workers), or give --cluster ray"
        )
    if tier2 or not plan.workers_per_slice:
        return {}
    return {"tier2": (f"local:{plan.workers_per_slice}",)}


def _check_storage(plan: Plan, cluster: str | None, tier2: Sequence[str]) -> None:
    """A plan has sizes and no folders, so workers that this run starts must be told theirs; others
    have been told when they were started, or in the cluster file."""
    if cluster == RAY or (cluster is None and parse_tier2(tier2)[0]):
        size = format_size(plan.worker_storage).replace(" ", "")
        raise UsageError(
            f"the plan keeps {size} of KV on each worker's drives: name a folder on each drive "
            f"with --worker-storage DIR:SIZE (sizes together {size}), or plan without drives"
        )


def _check_cluster(plan: Plan, path: Path) -> None:
    nodes = Cluster.load(path).nodes
    if len(nodes) != plan.slices:
        raise UsageError(
            f"the plan has {plan.slices} slices, {path} {len(nodes)} nodes: change the file, or "
            f"plan with --tier1-count {len(nodes)}"
        )
    for number, node in enumerate(nodes, start=1):
        num_local, addresses = parse_tier2(node.workers)
        if num_local + len(addresses) != plan.workers_per_slice:
            raise UsageError(
                f"{path}, node {number}: the plan has {plan.workers_per_slice} workers for each "
                f"slice, not {num_local + len(addresses)}; change the file or the plan"
            )
