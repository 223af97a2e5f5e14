"""What the parts of a step take on the machines of one pipeline slice, measured or from numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from glinthawk.core.shape import ModelShape

__all__ = ["LinkCost", "SliceCosts"]


@dataclass(frozen=True, slots=True)
class LinkCost:
    """Between machines, the same in both directions, which do not disturb each other."""

    #: From one end to the other, of an empty message.
    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """That the link is taken; latency comes on top."""
        return num_bytes / self.bytes_per_s


class SliceCosts(Protocol):
    """Seconds over all layers of the slice, each part alone; who overlaps what is not known here.

    ``planner/roofline.py`` takes them from the numbers of machines, ``planner/profile.py`` from
    what was measured.
    """

    @property
    def shape(self) -> ModelShape:
        """The slice's layers."""
        ...

    @property
    def link(self) -> LinkCost:
        """Between a Tier-1 node and anything else."""
        ...

    @property
    def kv_dtype(self) -> str:
        """Type of the KV cache."""
        ...

    def dense_s(self, rows: int, logits: int) -> float:
        """Tier 1: everything with weights for ``rows`` tokens, and the head for ``logits`` of them
        (0 on slices before the last)."""
        ...

    def prompt_s(self, lengths: Sequence[int]) -> float:
        """Tier 1: attention inside whole prompts."""
        ...

    def near_s(self, rows: int, kv_tokens: int) -> float:
        """Tier 1: attention of ``rows`` decode rows to ``kv_tokens`` of KV that it keeps itself."""
        ...

    def far_s(self, rows: int, kv_tokens: int) -> float:
        """A worker: attention of ``rows`` decode rows to ``kv_tokens`` of its KV."""
        ...

    def store_s(self, tokens: int) -> float:
        """A worker: taking in the KV of so many prompt tokens."""
        ...

    def drive_s(self, rows: int, read_tokens: float, written_tokens: float) -> float:
        """A worker's drives: reading ``read_tokens`` of KV for ``rows`` decode rows, and writing
        the KV of ``written_tokens``."""
        ...

    def rebuild_s(self, tokens: int) -> float:
        """Tier 1: fetching the layer inputs of so many tokens from its host's memory, and making
        keys and values of them."""
        ...

    def parcel_s(self, rows: int, prompt_tokens: int) -> float:
        """Tier 1: its own time for sending a worker ``rows`` decode rows (and taking in the answer)
        and the KV of ``prompt_tokens``."""
        ...

    def step_s(self, spans: int) -> float:
        """Tier 1: what a step takes outside the layers: forming the batch and sampling ``spans``
        tokens; on the last slice only."""
        ...
