"""Where a pipeline's nodes and workers run, and who looks after them."""

from dataclasses import dataclass
from typing import Protocol

from glinthawk.core.cluster import NodePlan
from glinthawk.launch.revival import Fate
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity

__all__ = ["Deployment", "Processes"]


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
class Deployment:
    """Nodes, each with an address now, and the key pair with which they are joined."""

    nodes: tuple[NodePlan, ...]
    identity: Identity | None
    processes: Processes
