"""The average step of a plan: what one pipeline slice, its workers and its link do for it."""

from dataclasses import dataclass
from math import ceil

from glinthawk.core.spec import DTYPE_BYTES
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.workload import Workload

__all__ = ["SlicePart", "Step", "Times"]


@dataclass(frozen=True, slots=True)
class Step:
    """The average step: of its rows some are near, the rest far; sometimes prompts come along."""

    rows: float
    far_rows: float
    #: Share of steps with prompts, and how many prompts those have.
    with_prompts: float
    prompts: float

    @property
    def prompts_a_step(self) -> float:
        return self.with_prompts * self.prompts

    @property
    def near_rows(self) -> float:
        return self.rows - self.far_rows

    @property
    def far_share(self) -> float:
        return self.far_rows / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Times:
    tier1: float
    worker: float
    link: float
    #: From a batch's arrival to its leaving.
    path: float
    plain: float
    prefill: float
    near: float


class SlicePart:
    """One slice's part in the average step."""

    def __init__(self, costs: SliceCosts, workload: Workload, position: tuple[int, int]) -> None:
        shape = costs.shape
        self.costs, self._workload = costs, workload
        self.is_first, self.is_last = position[0] == 0, position[0] == position[1] - 1
        self._out, self._back = shape.wire_bytes_out, shape.wire_bytes_back
        self._hidden = shape.hidden_bytes
        self._kv_wire = DTYPE_BYTES[shape.dtype] * sum(one.kv_elements for one in shape.attention)
        self._prompt_s = costs.prompt_s([round(workload.rms_input)])
        self._trips_s = 2 * len(shape.layers) * costs.link.latency_s

    def run(self, step: Step, workers: int) -> Times:
        """Seconds that each resource is taken for one step."""
        plain, mixed = self._dense_s(step)
        prefill = step.with_prompts * (mixed - plain)
        context, near, far = self._workload.mean_context, step.near_rows, step.far_rows
        near_s = self.costs.near_s(ceil(near), round(near * context)) if near else 0.0
        far_s, store_s, parcel_s = self._worker_s(step, workers) if workers else (0.0, 0.0, 0.0)
        logits = step.rows + step.prompts_a_step
        tier1 = plain + prefill + near_s + parcel_s
        tier1 += self.costs.step_s(ceil(logits)) if self.is_last else 0.0
        link, trip = self._link_s(step)
        away = far_s + trip + self._trips_s if far else 0.0
        tokens = step.rows + step.prompts_a_step * self._workload.mean_input
        hop = self.costs.link.latency_s + self.costs.link.seconds(tokens * self._hidden)
        path = tier1 - near_s + max(near_s, away) + (0.0 if self.is_first else hop)
        return Times(tier1, far_s + store_s, link, path, plain, prefill, near_s)

    def doubled_s(self, step: Step) -> float:
        """What twice the decode rows would add to a plain step."""
        logits = 2 * ceil(step.rows) if self.is_last else 0
        return self.costs.dense_s(2 * ceil(step.rows), logits) - self._dense_s(step)[0]

    def _dense_s(self, step: Step) -> tuple[float, float]:
        """Of a step without prompts, and with them."""
        rows, tokens = ceil(step.rows), ceil(step.rows + step.prompts * self._workload.mean_input)
        logits = rows if self.is_last else 0
        plain = self.costs.dense_s(rows, logits) if rows else 0.0
        if not step.with_prompts:
            return plain, plain
        mixed = self.costs.dense_s(tokens, logits + ceil(step.prompts) if self.is_last else 0)
        return plain, mixed + step.prompts * self._prompt_s

    def _worker_s(self, step: Step, workers: int) -> tuple[float, float, float]:
        """One worker's attending and storing, and Tier 1's parcels to all."""
        rows = step.far_rows / workers
        stored = round(step.prompts_a_step * self._workload.mean_input * step.far_share / workers)
        tokens = round(rows * self._workload.mean_context)
        far_s = self.costs.far_s(ceil(rows), tokens) if rows else 0.0
        parcel_s = workers * self.costs.parcel_s(ceil(rows), stored)
        return far_s, self.costs.store_s(stored), parcel_s

    def _link_s(self, step: Step) -> tuple[float, float]:
        """Busy with a step in the busier direction; and a row's parcels there and back."""
        prompt_tokens = step.prompts_a_step * self._workload.mean_input
        hidden = (step.rows + prompt_tokens) * self._hidden
        out, back = step.far_rows * self._out, step.far_rows * self._back
        sent = out + prompt_tokens * step.far_share * self._kv_wire
        sent += 0 if self.is_last else hidden
        received = back + (0 if self.is_first else hidden)
        seconds = self.costs.link.seconds
        return seconds(max(sent, received)), seconds(out) + seconds(back)
