"""A batch, weighed: what each pipeline slice and each of its workers has to do for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from glinthawk.core.batch import Batch
from glinthawk.planner.costs import SliceCosts
from glinthawk.scheduler.step_cost import TIER1

__all__ = ["FarWork", "Keeping", "SliceWork", "weigh"]

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
    #: Of its drives: what attention waits for, and what nobody waits for.
    read_s: float
    write_s: float


@dataclass(frozen=True, slots=True)
class Keeping:
    """How workers keep KV now, and what Tier 1 does beside them."""

    #: Share of a home's KV that comes from drives; where there is any, all that is new goes there.
    read_shares: Mapping[int, float]
    #: Share of the context that Tier 1 makes again from layer inputs.
    xcache: float = 0.0
    #: KV is sent to Tier 1 and attended there.
    is_fetched: bool = False


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


def weigh(batch: Batch, slices: Sequence[SliceCosts], keeping: Keeping) -> list[SliceWork]:
    """The work of ``batch`` on each slice; slices with the same costs share one."""
    homes = _by_home(batch)
    known: dict[int, SliceWork] = {}
    for costs in slices:
        if id(costs) not in known:
            known[id(costs)] = _weigh(batch, homes, costs, keeping)
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


def _weigh(batch: Batch, homes: dict[int, _Rows], costs: SliceCosts, keeping: Keeping) -> SliceWork:
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
            far.append(_far(home, here, costs, keeping))
            attention_s += _beside_s(here, costs, keeping)
            attention_s += costs.parcel_s(here.rows, sum(here.prompts))
    hidden = rows * shape.hidden_bytes
    return SliceWork(len(shape.layers), body_s, attention_s, end_s, hidden, far)


def _far(home: int, here: _Rows, costs: SliceCosts, keeping: Keeping) -> FarWork:
    shape, tokens = costs.shape, sum(here.prompts)
    kept = 1 - keeping.xcache
    out, back = here.rows * shape.wire_bytes_out, here.rows * shape.wire_bytes_back
    if keeping.is_fetched:
        out = here.rows * shape.kv_bytes_per_token(shape.dtype)
        back = here.kv_tokens * shape.kv_bytes_per_token(costs.kv_dtype)
    attends = here.rows and not keeping.is_fetched
    share = keeping.read_shares.get(home, 0.0)
    return FarWork(
        home,
        costs.far_s(here.rows, round(kept * here.kv_tokens)) if attends else 0.0,
        costs.store_s(tokens) if tokens else None,
        out + tokens * shape.kv_bytes_per_token(shape.dtype),
        back,
        costs.drive_s(here.rows, share * kept * here.kv_tokens, 0) if share else 0.0,
        costs.drive_s(0, 0, kept * (here.rows + tokens)) if share else 0.0,
    )


def _beside_s(here: _Rows, costs: SliceCosts, keeping: Keeping) -> float:
    """Tier 1's part in attention to what a worker keeps."""
    if keeping.is_fetched:
        return costs.near_s(here.rows, here.kv_tokens) if here.rows else 0.0
    tokens = round(keeping.xcache * here.kv_tokens)
    return costs.rebuild_s(tokens) + costs.near_s(here.rows, tokens) if tokens else 0.0
