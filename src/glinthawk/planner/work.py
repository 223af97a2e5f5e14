"""What a step costs on one pipeline slice: the one model that estimates and simulations share.

An estimate asks with averages, which need not be whole (``step.py``), a simulation with the rows of
a batch (``weigh``). What overlaps is theirs to say; here each part is taken alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from glinthawk.core.batch import Batch
from glinthawk.core.plan import Plan
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.formulas import read_share
from glinthawk.scheduler.step_cost import TIER1

__all__ = [
    "FarWork",
    "HomeLoad",
    "Keeping",
    "SliceWork",
    "beside_s",
    "dense_s",
    "keep",
    "near_s",
    "sampling_s",
    "weigh",
    "weigh_far",
]

#: Of a layer's weights, those that come before its attention.
_BEFORE_ATTENTION = 0.25


@dataclass(slots=True)
class HomeLoad:
    """What a step has at one home: decode rows, the KV they attend to, and prompts to keep."""

    rows: float = 0
    kv_tokens: float = 0
    prompt_tokens: float = 0


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a worker keeps KV now, and what Tier 1 does beside it."""

    #: Share of the context that Tier 1 makes again from layer inputs.
    xcache: float = 0.0
    #: KV is sent to Tier 1 and attended there.
    is_fetched: bool = False
    #: Share of the KV that comes from drives; where there is any, all that is new goes there.
    read_share: float = 0.0


@dataclass(frozen=True, slots=True)
class FarWork:
    """Of one worker, over all layers of the slice; and Tier 1's part in it."""

    attend_s: float
    #: To keep prompts.
    store_s: float
    #: Of its drives: what attention waits for, and what nobody waits for.
    read_s: float
    write_s: float
    #: To it, for rows and for prompts; and back.
    row_bytes: float
    prompt_bytes: float
    bytes_back: float
    #: Of Tier 1: its parcels, and attention to what is fetched or made again.
    parcel_s: float
    beside_s: float


@dataclass(frozen=True, slots=True)
class SliceWork:
    """Of a batch, over all layers of one slice."""

    #: Tier 1's time that goes with the layers: weights, prompts, its own KV, parcels.
    dense_s: float
    attention_s: float
    #: And what comes after them: head and sampling.
    end_s: float
    hidden_bytes: int
    #: By home.
    far: Mapping[int, FarWork]

    def tier1_s(self, layer: int, num_layers: int) -> float:
        """Of Tier 1, from the attention before ``layer`` (of ``num_layers``) to the next one.

        What comes before a layer's attention is a quarter of it.
        """
        if layer == 0:
            return (_BEFORE_ATTENTION * self.dense_s + self.attention_s) / num_layers
        if layer == num_layers:
            return (1 - _BEFORE_ATTENTION) * self.dense_s / num_layers + self.end_s
        return (self.dense_s + self.attention_s) / num_layers


def keep(plan: Plan, page_bytes: int, pages_held: float) -> Keeping:
    """How a worker keeps KV whose sequences have so many pages there."""
    share = 0.0
    if plan.worker_storage:
        share = read_share(plan.worker_kv // page_bytes, (1 - plan.xcache) * pages_held)
    return Keeping(plan.xcache, plan.kv_placement == "fetch", share)


def dense_s(costs: SliceCosts, tokens: float, spans: float) -> float:
    """Everything with weights; the last slice has the head, for one row of each span."""
    logits = ceil(spans) if costs.shape.head_params else 0
    return costs.dense_s(ceil(tokens), logits) if tokens else 0.0


def sampling_s(costs: SliceCosts, spans: float) -> float:
    """Outside the layers, where the head is."""
    return costs.step_s(ceil(spans)) if costs.shape.head_params else 0.0


def near_s(costs: SliceCosts, rows: float, kv_tokens: float) -> float:
    """Attention on Tier 1, which one row at least has."""
    return costs.near_s(ceil(rows), round(kv_tokens)) if rows else 0.0


def beside_s(costs: SliceCosts, load: HomeLoad, keeping: Keeping) -> float:
    """Tier 1's part in attention to what one worker keeps, which it does worker by worker: all that
    is fetched, or the share whose keys and values it makes again."""
    if keeping.is_fetched:
        return near_s(costs, load.rows, load.kv_tokens)
    tokens = round(keeping.xcache * load.kv_tokens)
    return costs.rebuild_s(tokens) + near_s(costs, load.rows, tokens) if tokens else 0.0


def weigh_far(costs: SliceCosts, load: HomeLoad, keeping: Keeping) -> FarWork:
    """One worker's part in a step. Near the KV a row takes q, k, v there and its output back
    (Lamina, arXiv 2405.01814, section 4); fetched, its k and v go there and all its KV comes."""
    shape, share = costs.shape, keeping.read_share
    rows, stored, kept = ceil(load.rows), round(load.prompt_tokens), 1 - keeping.xcache
    kv_wire_bytes = shape.kv_bytes_per_token(shape.dtype)
    row_bytes = load.rows * shape.wire_bytes_out
    bytes_back = load.rows * shape.wire_bytes_back
    if keeping.is_fetched:
        row_bytes = load.rows * kv_wire_bytes
        bytes_back = load.kv_tokens * shape.kv_bytes_per_token(costs.kv_dtype)
    attends = rows and not keeping.is_fetched
    return FarWork(
        attend_s=costs.far_s(rows, round(kept * load.kv_tokens)) if attends else 0.0,
        store_s=costs.store_s(stored) if stored else 0.0,
        read_s=costs.drive_s(rows, share * kept * load.kv_tokens, 0) if share else 0.0,
        write_s=costs.drive_s(0, 0, kept * (load.rows + stored)) if share else 0.0,
        row_bytes=row_bytes,
        prompt_bytes=load.prompt_tokens * kv_wire_bytes,
        bytes_back=bytes_back,
        parcel_s=costs.parcel_s(rows, stored),
        beside_s=beside_s(costs, load, keeping),
    )


def weigh(
    batch: Batch, slices: Sequence[SliceCosts], keeping: Mapping[int, Keeping]
) -> list[SliceWork]:
    """The work of ``batch`` on each slice, its workers' ``keeping`` by home; slices with the same
    costs share one."""
    loads = _by_home(batch)
    known = {id(costs): costs for costs in slices}
    works = {key: _weigh(batch, loads, costs, keeping) for key, costs in known.items()}
    return [works[id(costs)] for costs in slices]


def _by_home(batch: Batch) -> dict[int, HomeLoad]:
    loads: dict[int, HomeLoad] = {}
    for span in batch.extends:
        load = loads.get(span.home)
        if load is None:
            load = loads[span.home] = HomeLoad()
        load.rows += span.length
        load.kv_tokens += span.start + span.length
    for span in batch.prompts:
        loads.setdefault(span.home, HomeLoad()).prompt_tokens += span.length
    return loads


def _weigh(
    batch: Batch, loads: Mapping[int, HomeLoad], costs: SliceCosts, keeping: Mapping[int, Keeping]
) -> SliceWork:
    lengths = [span.length for span in batch.prompts]
    tokens = sum(span.length for span in batch.extends) + sum(lengths)
    spans = len(batch.extends) + len(lengths)
    body_s = costs.dense_s(tokens, 0)
    end_s = dense_s(costs, tokens, spans) - body_s + sampling_s(costs, spans)
    near = loads.get(TIER1, HomeLoad())
    far = {
        home: weigh_far(costs, load, keeping[home]) for home, load in loads.items() if home != TIER1
    }
    attention_s = costs.prompt_s(lengths) if lengths else 0.0
    attention_s += near_s(costs, near.rows, near.kv_tokens)
    attention_s += sum(one.beside_s + one.parcel_s for one in far.values())
    hidden_bytes = tokens * costs.shape.hidden_bytes
    return SliceWork(body_s, attention_s, end_s, hidden_bytes, far)
