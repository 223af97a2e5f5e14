"""What the parts of a step take by the numbers of machines alone: not measured.

A part takes as long as the slower of moving its bytes and doing its arithmetic, each at the share
of the peak that the catalogue says is reached. Near the point where both take as long, real steps
are slower than this, by up to a fifth.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from glinthawk.core.errors import UsageError
from glinthawk.core.shape import LayerShape, ModelShape
from glinthawk.core.spec import DTYPE_BYTES, AttentionLayer
from glinthawk.planner.catalogue import Machine
from glinthawk.planner.costs import LinkCost

__all__ = ["Roofline", "roofline_slices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """``SliceCosts`` of one Tier-1 machine that has the slice ``shape``, and of workers each of
    which is one Tier-2 machine."""

    shape: ModelShape
    tier1: Machine
    tier2: Machine | None
    link: LinkCost
    kv_dtype: str
    #: Of Tier 1's host for a layer's parcel to one worker: 0 where the accelerator works meanwhile.
    parcel_layer_s: float = 0.0
    #: Of a step outside the layers: 0 where it is hidden behind the accelerator's work.
    step_overhead_s: float = 0.0

    _dense: tuple[tuple[LayerShape, int], ...] = field(init=False, repr=False, compare=False)
    _attention: tuple[tuple[AttentionLayer, int], ...] = field(
        init=False, repr=False, compare=False
    )
    _kv_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for machine in filter(None, (self.tier1, self.tier2)):
            if machine.kind == "drive":
                raise UsageError(f"{machine.name} is a drive: it computes nothing")
        # Layers are alike: a few kinds are summed at every call instead of a hundred layers.
        attention = Counter(self.shape.attention)
        dense = Counter(self.shape.layers)
        object.__setattr__(self, "_dense", tuple(dense.items()))
        object.__setattr__(self, "_attention", tuple(attention.items()))
        object.__setattr__(self, "_kv_bytes", self.shape.kv_bytes_per_token(self.kv_dtype))

    def dense_s(self, rows: int, logits: int) -> float:
        """The slower of streaming the weights once and multiplying them with every row."""
        if not rows:
            return 0.0
        head = self.shape.head_params
        read: float = head if logits else 0
        flops = 2 * logits * head
        for layer, times in self._dense:
            read += times * layer.params_read(rows)
            flops += 2 * times * rows * layer.active_params
        read_s = DTYPE_BYTES[self.shape.dtype] * read / self.tier1.reached_bandwidth
        return max(read_s, flops / self.tier1.reached_flops)

    def prompt_s(self, lengths: Sequence[int]) -> float:
        """Causal: a token meets itself and those before, half of all pairs; keys and values fit
        into caches, so arithmetic binds."""
        flops = 0.0
        for one, times in self._attention:
            pairs = sum(_causal_pairs(length, one.window) for length in lengths)
            flops += times * pairs * _pair_flops(one)
        return flops / self.tier1.reached_flops

    def near_s(self, rows: int, kv_tokens: int) -> float:
        """As ``far_s``, on Tier 1."""
        return self._attend_s(self.tier1, rows, kv_tokens)

    def far_s(self, rows: int, kv_tokens: int) -> float:
        """The slowest of reading the keys and values once, the arithmetic on them, which binds on
        CPUs with many query heads for each KV head, and the worker's own network: the link is
        Tier 1's."""
        if self.tier2 is None:
            return 0.0
        moved = rows * max(self.shape.wire_bytes_out, self.shape.wire_bytes_back)
        return max(self._attend_s(self.tier2, rows, kv_tokens), moved / self.tier2.network)

    def store_s(self, tokens: int) -> float:
        """The slower of writing the keys and values once and the worker's own network."""
        if self.tier2 is None:
            return 0.0
        elements = sum(one.kv_elements * times for one, times in self._attention)
        moved = tokens * elements * DTYPE_BYTES[self.shape.dtype]
        return max(tokens * self._kv_bytes / self.tier2.reached_writes, moved / self.tier2.network)

    def drive_s(self, rows: int, read_tokens: float, written_tokens: float) -> float:
        """Bytes over what all drives of the machine reach together; reads and writes take turns."""
        if self.tier2 is None or not self.tier2.storage:
            return 0.0
        read = self._bytes_seen(rows, read_tokens)
        written = written_tokens * self._kv_bytes
        return read / self.tier2.reached_storage_reads + written / self.tier2.reached_storage_writes

    def rebuild_s(self, tokens: int) -> float:
        """The slower of moving the inputs, of an accelerator over its host's link, and the
        projections."""
        near = self.tier1
        bandwidth = near.host_bandwidth if near.kind == "accelerator" else near.reached_bandwidth
        moved_s = tokens * self.shape.input_bytes / bandwidth if bandwidth else inf
        return max(moved_s, tokens * self.shape.rebuild_flops / near.reached_flops)

    def parcel_s(self, rows: int, prompt_tokens: int) -> float:
        is_sent = rows or prompt_tokens
        return self.parcel_layer_s * len(self.shape.layers) if is_sent else 0.0

    def step_s(self, spans: int) -> float:
        return self.step_overhead_s if spans and self.shape.head_params else 0.0

    def _attend_s(self, machine: Machine, rows: int, kv_tokens: int) -> float:
        flops = sum(
            times * _seen(one, rows, kv_tokens) * _pair_flops(one) for one, times in self._attention
        )
        read = self._bytes_seen(rows, kv_tokens)
        return max(read / machine.reached_bandwidth, flops / machine.reached_flops)

    def _bytes_seen(self, rows: int, kv_tokens: float) -> float:
        """Of keys and values that ``rows`` meet among ``kv_tokens``, each within its windows."""
        read = elements = 0.0
        for one, times in self._attention:
            read += times * _seen(one, rows, kv_tokens) * one.kv_elements
            elements += times * one.kv_elements
        return read * self._kv_bytes / elements


def roofline_slices(
    shape: ModelShape,
    num_slices: int,
    tier1: Machine,
    tier2: Machine | None,
    link: LinkCost,
    kv_dtype: str,
    *,
    parcel_layer_s: float = 0.0,
    step_overhead_s: float = 0.0,
) -> list[Roofline]:
    """Of every slice, in order; equal slices are one object."""
    return list(
        _share_equal(
            Roofline(
                shape=part,
                tier1=tier1,
                tier2=tier2,
                link=link,
                kv_dtype=kv_dtype,
                parcel_layer_s=parcel_layer_s,
                step_overhead_s=step_overhead_s,
            )
            for part in shape.cut(num_slices)
        )
    )


def _share_equal(costs: Iterator[Roofline]) -> Iterator[Roofline]:
    seen: list[Roofline] = []
    for one in costs:
        found = next((other for other in seen if other.shape == one.shape), one)
        if found is one:
            seen.append(one)
        yield found


def _seen(one: AttentionLayer, rows: int, kv_tokens: float) -> float:
    return kv_tokens if one.window is None else min(kv_tokens, rows * one.window)


def _causal_pairs(length: float, window: int | None) -> float:
    """Pairs of a query and a key that it sees, in a prompt."""
    if window is None or length <= window:
        return length * length / 2
    return length * window - window * window / 2


def _pair_flops(one: AttentionLayer) -> int:
    """A product and a sum for each element of a key and of a value, in every query head."""
    return 2 * one.num_heads * (one.head_dim + one.value_dim)
