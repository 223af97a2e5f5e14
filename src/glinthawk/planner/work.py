"""A batch, weighed: what each pipeline slice and each of its workers has to do for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from glinthawk.core.batch import Batch
from glinthawk.planner.costs import SliceCosts
from glinthawk.scheduler.pace import TIER1

__all__ = ["FarWork", "SliceWork", "weigh"]

#: Of a layer's weights, those that come before its attention.
_BEFORE_ATTENTION = 0.25


@dataclass(slots=True)
class FarWork:
    """Of one worker, over all layers of the slice."""

    home: int
    attend_s: float
    #: To keep prompts; None: there are none.
    store_s: float | None
    bytes_out: int
    bytes_back: int


@dataclass(slots=True)
class SliceWork:
    """Of one slice, over all its layers."""

    num_layers: int
    #: Tier 1's time that goes with the layers: weights, prompts, its own KV, parcels.
    dense_s: float
    attention_s: float
    #: And what comes after them: head and sampling.
    end_s: float
    hidden_bytes: int
    far: list[FarWork]

    def tier1_s(self, layer: int, num_layers: int) -> float:
        """Of Tier 1, from the attention before ``layer`` (of ``num_layers``) to the next one.

        What comes before a layer's attention is a quarter of it.
        """
        if layer == 0:
            return (_BEFORE_ATTENTION * self.dense_s + self.attention_s) / num_layers
        if layer == num_layers:
            return (1 - _BEFORE_ATTENTION) * self.dense_s / num_layers + self.end_s
        return (self.dense_s + self.attention_s) / num_layers


@dataclass(slots=True)
class _Rows:
    """What a batch has at one home."""

    rows: int = 0
    kv_tokens: int = 0
    prompts: list[int] = field(default_factory=list)


def weigh(batch: Batch, slices: Sequence[SliceCosts]) -> list[SliceWork]:
    """The work of ``batch`` on each slice; slices with the same costs share one."""
    homes = _by_home(batch)
    known: dict[int, SliceWork] = {}
    for costs in slices:
        if id(costs) not in known:
            known[id(costs)] = _weigh(batch, homes, costs)
    return [known[id(costs)] for costs in slices]


def _by_home(batch: Batch) -> dict[int, _Rows]:
    homes: dict[int, _Rows] = {}
    for span in batch.extends:
        here = homes.get(span.home)
        if here is None:
            here = homes[span.home] = _Rows()
        here.rows += span.length
        here.kv_tokens += span.start + span.length
    for span in batch.prompts:
        homes.setdefault(span.home, _Rows()).prompts.append(span.length)
    return homes


def _weigh(batch: Batch, homes: dict[int, _Rows], costs: SliceCosts) -> SliceWork:
    shape = costs.shape
    lengths = [span.length for span in batch.prompts]
    rows = sum(here.rows for here in homes.values()) + sum(lengths)
    num_spans = len(batch.extends) + len(lengths)
    logits = num_spans if shape.head_params else 0
    body_s, end_s = costs.dense_s(rows, 0), 0.0
    if logits:
        end_s = costs.dense_s(rows, logits) - body_s + costs.step_s(num_spans)
    attention_s = costs.prompt_s(lengths) if lengths else 0.0
    far = []
    for home, here in homes.items():
        if home == TIER1:
            attention_s += costs.near_s(here.rows, here.kv_tokens) if here.rows else 0.0
        else:
            far.append(_far(home, here, costs))
            attention_s += costs.parcel_s(here.rows, sum(here.prompts))
    hidden = rows * shape.hidden_bytes
    return SliceWork(len(shape.layers), body_s, attention_s, end_s, hidden, far)


def _far(home: int, here: _Rows, costs: SliceCosts) -> FarWork:
    shape, tokens = costs.shape, sum(here.prompts)
    return FarWork(
        home,
        costs.far_s(here.rows, here.kv_tokens) if here.rows else 0.0,
        costs.store_s(tokens) if tokens else None,
        here.rows * shape.wire_bytes_out + tokens * shape.kv_bytes_per_token(shape.dtype),
        here.rows * shape.wire_bytes_back,
    )
