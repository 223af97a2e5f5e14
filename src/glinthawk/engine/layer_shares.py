"""Which layers each node of a pipeline has: as the user says, or so that all are busy alike."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from glinthawk.core.cluster import NodePlan
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import ModelError, UsageError
from glinthawk.core.slices import LayerSlice, balance_layers
from glinthawk.tier1.model.loader import count_layers
from glinthawk.tier1.model.parameter_count import read_shape

__all__ = ["LayerShares", "share_layers"]

_log = logging.getLogger(__name__)

#: The slowest slice must become faster by this much to be worth loading weights again.
_WORTH = 1.15
#: Steps of less than this are as much the machine's noise as its speed.
_LEAST_S = 0.010


@dataclass(frozen=True, slots=True)
class LayerShares:
    """``parts`` by node. ``work`` is that of each layer, ``head`` what the last slice has beside;
    None where the user says who has what."""

    parts: Sequence[LayerSlice]
    work: Sequence[float] | None = None
    head: float = 0.0

    def balance(self, seconds: Sequence[float]) -> "LayerShares | None":
        """What the nodes should have instead, who took so long for a step of what they have (0: not
        measured); None if that is about as good."""
        if self.work is None or min(seconds) < _LEAST_S:
            return None
        done = [self._work_of(part) for part in self.parts]
        speeds = [work / took for work, took in zip(done, seconds, strict=True)]
        better = LayerShares(balance_layers(self.work, self.head, speeds), self.work, self.head)
        pairs = zip(better.parts, speeds, strict=True)
        planned = max(better._work_of(part) / speed for part, speed in pairs)
        if max(seconds) < _WORTH * planned:
            return None
        _log.warning(
            "the slowest slice takes %.0f ms, and %.0f with layers shared as %s: loading again",
            1e3 * max(seconds),
            1e3 * planned,
            ", ".join(f"{part.first}:{part.last}" for part in better.parts),
        )
        return better

    def _work_of(self, part: LayerSlice) -> float:
        assert self.work is not None
        return sum(self.work[part.first : part.last]) + self.head * part.is_last


def share_layers(config: EngineConfig, nodes: Sequence[NodePlan]) -> LayerShares:
    """As the nodes say, or as weights have it. Raises UsageError or ModelError."""
    said = [node.layers for node in nodes]
    num_layers = count_layers(config)
    if not any(said):
        return _share_by_weights(config, num_layers, len(nodes))
    parts = [_part(text, num_layers) for text in said]
    ends = [0, *(part.last for part in parts)]
    if [part.first for part in parts] != ends[:-1] or ends[-1] != num_layers:
        raise UsageError(
            f"the nodes' layers must follow one another from 0 to {num_layers}, not "
            f"{', '.join(str(text) for text in said)}"
        )
    return LayerShares(parts)


def _share_by_weights(config: EngineConfig, num_layers: int, num_nodes: int) -> LayerShares:
    """Layers of which nothing is known count alike, without a head."""
    work, head = [1.0] * num_layers, 0.0
    try:
        shape = read_shape(config.model, config.dtype, config.trust_remote_code)
        if len(shape.layers) == num_layers:
            work, head = shape.layer_work, shape.head_work
    except ModelError as error:
        _log.info("layers are shared equally: %s", error)
    return LayerShares(balance_layers(work, head, [1.0] * num_nodes), work, head)


def _part(text: str | None, num_layers: int) -> LayerSlice:
    first, colon, last = (text or "").partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise UsageError(f'layers = "0:{num_layers}" for every node or for none, not {text!r}')
    return LayerSlice(int(first), int(last), num_layers)
