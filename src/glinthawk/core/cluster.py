"""Which machines a model is laid over: a TOML file."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glinthawk.core.errors import UsageError
from glinthawk.core.nearest import advise_name
from glinthawk.core.units import is_text_or_bytes, parse_size

__all__ = ["LOCAL", "Cluster", "NodePlan"]

#: In place of an address: a process that is started here.
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A Tier-1 node and the Tier-2 workers of its slice; as in EngineConfig what is not said here.

    ``layers`` is "first:last", counted from 0, last not included; None shares the layers equally.
    """

    address: str = LOCAL
    workers: tuple[str, ...] = ()
    layers: str | None = None
    tier1_kv: str | int | None = None
    worker_kv: str | int | None = None
    worker_storage: tuple[str, ...] | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes in the order of their slices.

    >>> # [[nodes]]
    >>> # address = "tcp://10.0.0.1:7000?key=..."
    >>> # workers = ["tcp://10.0.0.2:7001?key=...", "local:1"]
    """

    nodes: tuple[NodePlan, ...]

    @classmethod
    def load(cls, path: Path) -> "Cluster":
        """Raises UsageError that names the entry at fault."""
        try:
            content = tomllib.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"cannot read the cluster file {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}") from error
        entries = content.pop("nodes", None)
        if content or not isinstance(entries, list) or not entries:
            raise UsageError(f"{path} must hold [[nodes]] entries and nothing else")
        return cls(tuple(_node(path, index, entry) for index, entry in enumerate(entries)))


def _node(path: Path, index: int, entry: Any) -> NodePlan:
    where = f"{path}, node {index + 1}"
    if not isinstance(entry, dict):
        raise UsageError(f"{where} must be a [[nodes]] table")
    known = [field.name for field in fields(NodePlan)]
    if unknown := sorted(entry.keys() - set(known)):
        advice = advise_name(unknown[0], known, f"there are {', '.join(known)}")
        raise UsageError(f"{where} has no {unknown[0]!r}; {advice}")
    workers = entry.pop("workers", [])
    if not _are_texts(workers):
        raise UsageError(f"{where}: workers is a list of addresses or local:N")
    if not _are_texts(entry.get("worker_storage", [])):
        raise UsageError(f"{where}: worker_storage is a list of DIR:SIZE")
    for name in ("address", "layers", "device"):
        if not isinstance(entry.get(name, ""), str):
            raise UsageError(f"{where}: {name} is text in quotes")
    for name in ("tier1_kv", "worker_kv"):
        _check_size(f"{where}: {name}", entry.get(name, 0))
    return NodePlan(workers=tuple(workers), **entry)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


def _check_size(what: str, value: Any) -> None:
    if not is_text_or_bytes(value):
        raise UsageError(f'{what} is a size in quotes, like "64GiB", or bytes, not {value!r}')
    try:
        parse_size(value)
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error
