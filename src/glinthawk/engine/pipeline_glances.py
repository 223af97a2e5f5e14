"""What the nodes of a pipeline have done so far, for whoever looks on while the run goes on."""

import statistics
from collections.abc import Sequence

from glinthawk.engine.node_link import NodeLink
from glinthawk.telemetry.reading import Glance
from glinthawk.wire.control import AskGlance

__all__ = ["PipelineGlances"]


class PipelineGlances:
    """Nodes are asked as often as somebody looks, and nobody waits for them."""

    def __init__(self, stages: Sequence[NodeLink]) -> None:
        self._stages = stages
        self._is_wanted = False

    def look(self) -> Glance | None:
        """What they said last, from any thread: a node's seconds and a worker's are means over the
        slices. None before all have said something."""
        self._is_wanted = True
        parts = [stage.glance for stage in self._stages]
        known = [part for part in parts if part is not None]
        return _join(known) if len(known) == len(parts) else None

    def ask(self) -> None:
        """Once for every look, on the pipeline's own thread."""
        if self._is_wanted:
            self._is_wanted = False
            for stage in self._stages:
                stage.send(AskGlance())


def _join(parts: Sequence[Glance]) -> Glance:
    homes = {home for part in parts for home in part.tier2_busy_s}
    return Glance(
        statistics.mean(part.tier1_busy_s for part in parts),
        {h: statistics.mean(part.tier2_busy_s.get(h, 0.0) for part in parts) for h in homes},
        sum(part.bytes_out for part in parts),
        sum(part.bytes_back for part in parts),
    )
