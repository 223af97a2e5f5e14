"""What each node of a pipeline is told to become."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from glinthawk.core.cluster import NodePlan
from glinthawk.core.config import RAY, EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.lora import LoraSource, parse_lora
from glinthawk.core.slices import LayerSlice, split_layers
from glinthawk.launch.local_processes import parse_tier2
from glinthawk.tier1.kv.home_factory import group_workers
from glinthawk.tier1.model.loader import count_layers
from glinthawk.wire.address import Address
from glinthawk.wire.control import LoadSlice
from glinthawk.wire.messages import VERSION

__all__ = ["list_homes", "move_load", "plan_loads"]


def plan_loads(
    config: EngineConfig, nodes: tuple[NodePlan, ...]
) -> list[tuple[Address, LoadSlice]]:
    """Each node's address and slice. Raises UsageError when they do not make one model."""
    configs = [_node_config(config, node) for node in nodes]
    _check_alike(configs)
    parts = _parts(count_layers(config), nodes)
    addresses = [Address.parse(node.address) for node in nodes]
    following = [*(address.text for address in addresses[1:]), None]
    return [
        (address, LoadSlice(VERSION, own, part, behind))
        for address, own, part, behind in zip(addresses, configs, parts, following, strict=True)
    ]


def _check_alike(configs: list[EngineConfig]) -> None:
    """A home has a part with every slice. Raises UsageError."""
    counts = []
    for config in configs:
        num_local, addresses = parse_tier2(config.tier2)
        workers = range(num_local + len(addresses))
        counts.append(len(group_workers(config.split_attention, workers)))
    if len(set(counts)) > 1:
        raise UsageError(
            f"every node needs as many workers as the others, not {', '.join(map(str, counts))}"
        )
    if len({config.tier1_kv_bytes > 0 for config in configs}) > 1:
        raise UsageError("either all nodes have tier1_kv or none: a sequence's KV is with all")


def _parts(num_layers: int, nodes: tuple[NodePlan, ...]) -> list[LayerSlice]:
    """The nodes' layers: as they say, or shared equally."""
    said = [node.layers for node in nodes]
    if not any(said):
        return list(split_layers(num_layers, len(nodes)))
    parts = [_part(text, num_layers) for text in said]
    ends = [0, *(part.last for part in parts)]
    if [part.first for part in parts] != ends[:-1] or ends[-1] != num_layers:
        raise UsageError(
            f"the nodes' layers must follow one another from 0 to {num_layers}, not "
            f"{', '.join(str(text) for text in said)}"
        )
    return parts


def _part(text: str | None, num_layers: int) -> LayerSlice:
    first, colon, last = (text or "").partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise UsageError(f'layers = "0:{num_layers}" for every node or for none, not {text!r}')
    return LayerSlice(int(first), int(last), num_layers)


def _node_config(config: EngineConfig, node: NodePlan) -> EngineConfig:
    """What one node is told: its own workers and memory, and nothing of files that are here."""
    own: dict[str, Any] = {
        name: getattr(node, name)
        for name in ("tier1_kv", "worker_kv", "worker_storage", "device")
        if getattr(node, name) is not None
    }
    model = Path(config.model)
    if config.cluster == RAY and model.exists():  # actors run in a folder of Ray's
        own["model"] = str(model.resolve())
    if config.cluster == RAY:
        own["lora"] = tuple(map(_absolute, parse_lora(config.lora)))
    for name in ("cluster", "identity", "slices", "workers_per_slice"):
        own[name] = None
    return replace(config, tier2=node.workers, **own)


def _absolute(source: LoraSource) -> str:
    """As it is given, from wherever it is read."""
    path = str(Path(source.path).resolve())
    return path if source.name is None else f"{source.name}={path}"


def list_homes(config: EngineConfig) -> list[list[Address]]:
    """Each home's workers, from home 1 on, less those that the node starts itself."""
    _, addresses = parse_tier2(config.tier2)
    return group_workers(config.split_attention, addresses)


def move_load(load: LoadSlice, old: str, new: str) -> LoadSlice:
    """With ``new`` wherever ``old`` was said."""
    workers = tuple(new if worker == old else worker for worker in load.config.tier2)
    behind = new if load.next == old else load.next
    return msgspec.structs.replace(load, config=replace(load.config, tier2=workers), next=behind)
