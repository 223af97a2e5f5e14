"""Costs that are plain numbers, for tests with a pencil."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from glinthawk.core.plan import Plan
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.shape import LayerShape, ModelShape
from glinthawk.core.spec import AttentionLayer
from glinthawk.planner.costs import LinkCost

__all__ = ["FixedCosts", "make_plan", "make_shape", "requests"]

KV_DTYPE = "bfloat16"


def make_shape(num_layers: int = 4) -> ModelShape:
    attention = AttentionLayer(2, 1, 8, 8, 1.0)
    layers = (LayerShape(attention, 100, 100),) * num_layers
    return ModelShape("tiny", 16, 4096, KV_DTYPE, layers, 10, 10)


@dataclass
class FixedCosts:
    """Every part takes its seconds, whatever its size; a row that attends takes ``row_s``; drives
    and what is made again take their seconds for each token."""

    shape: ModelShape
    link: LinkCost = field(default_factory=lambda: LinkCost(0.0, 1e12))
    kv_dtype: str = KV_DTYPE
    body_s: float = 1.0
    head_s: float = 0.0
    row_s: float = 0.0
    keep_s: float = 0.0
    #: Of a token: read from drives, written there, made again on Tier 1.
    read_s: float = 0.0
    write_s: float = 0.0
    again_s: float = 0.0

    def dense_s(self, rows: int, logits: int) -> float:
        return self.body_s + (self.head_s if logits else 0.0)

    def prompt_s(self, lengths: Sequence[int]) -> float:
        return 0.0

    def near_s(self, rows: int, kv_tokens: int) -> float:
        return rows * self.row_s

    def far_s(self, rows: int, kv_tokens: int) -> float:
        return rows * self.row_s

    def store_s(self, tokens: int) -> float:
        return self.keep_s

    def drive_s(self, rows: int, read_tokens: float, written_tokens: float) -> float:
        return self.read_s * read_tokens + self.write_s * written_tokens

    def rebuild_s(self, tokens: int) -> float:
        return self.again_s * tokens

    def parcel_s(self, rows: int, prompt_tokens: int) -> float:
        return 0.0

    def step_s(self, spans: int) -> float:
        return 0.0


def make_plan(batch: int, in_flight: int = 1, workers: int = 1, slices: int = 1) -> Plan:
    """Room for everything, at the workers or, without any, on Tier 1."""
    return Plan(
        model="tiny",
        kv_dtype=KV_DTYPE,
        slices=slices,
        workers_per_slice=workers,
        batch_size=batch,
        batches_in_flight=in_flight,
        tier1_kv=0 if workers else 1 << 30,
        worker_kv=1 << 30,
    )


def requests(count: int, new: int, prompt: int = 3) -> list[Request]:
    params = SamplingParams(max_tokens=new)
    return [Request(n, (n,) * prompt, params, 0, new) for n in range(count)]
