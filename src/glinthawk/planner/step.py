"""The average step of a plan: what one pipeline slice, its workers and its link do for it."""

from dataclasses import dataclass, replace
from math import ceil

from glinthawk.core.spec import DTYPE_BYTES
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.formulas import rebuilt_share
from glinthawk.planner.workload import Workload

__all__ = ["AverageStep", "SlicePart", "Times"]


@dataclass(frozen=True, slots=True)
class AverageStep:
    """The average step: of its rows some are near, the rest far; sometimes prompts come along."""

    rows: float
    far_rows: float
    #: Share of steps with prompts, and how many prompts those have.
    with_prompts: float
    prompts: float
    #: Share of the KV at workers that comes from drives; and whether drives keep what is new, which
    #: they do when memory is full.
    read_share: float = 0.0
    is_written: bool = False
    #: Share of the context of far rows that Tier 1 makes again from layer inputs.
    xcache: float = 0.0
    #: KV at workers is sent to Tier 1 and attended there.
    is_fetched: bool = False

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
    #: A worker's drives.
    drives: float
    link: float
    #: From a batch's arrival to its leaving.
    path: float
    plain: float
    prefill: float
    #: Attention on Tier 1, to KV that it keeps, makes again, or is sent.
    near: float


@dataclass(frozen=True, slots=True)
class _Far:
    """Of one worker; and Tier 1's parcels to all."""

    attend: float = 0.0
    store: float = 0.0
    read: float = 0.0
    write: float = 0.0
    parcels: float = 0.0


class SlicePart:
    """One slice's part in the average step."""

    def __init__(self, costs: SliceCosts, workload: Workload, position: tuple[int, int]) -> None:
        shape = costs.shape
        self.costs, self._workload = costs, workload
        self.is_first, self.is_last = position[0] == 0, position[0] == position[1] - 1
        self._out, self._back = shape.wire_bytes_out, shape.wire_bytes_back
        self._hidden = shape.hidden_bytes
        self._kv_wire = DTYPE_BYTES[shape.dtype] * sum(one.kv_elements for one in shape.attention)
        self._kv_kept = shape.kv_bytes_per_token(costs.kv_dtype)
        self._prompt_s = costs.prompt_s([round(workload.rms_input)])
        self._trips_s = 2 * len(shape.layers) * costs.link.latency_s

    def run(self, step: AverageStep, workers: int) -> Times:
        """Seconds that each resource is taken for one step."""
        plain, mixed = self._dense_s(step)
        prefill = step.with_prompts * (mixed - plain)
        context, near, far = self._workload.mean_context, step.near_rows, step.far_rows
        near_s = self.costs.near_s(ceil(near), round(near * context)) if near else 0.0
        there = self._worker_s(step, workers) if workers else _Far()
        near_s += self.beside_s(step) if far else 0.0
        logits = step.rows + step.prompts_a_step
        tier1 = plain + prefill + near_s + there.parcels
        tier1 += self.costs.step_s(ceil(logits)) if self.is_last else 0.0
        link, trip = self._link_s(step)
        away = max(there.attend, there.read) + trip + self._trips_s if far else 0.0
        tokens = step.rows + step.prompts_a_step * self._workload.mean_input
        hop = self.costs.link.latency_s + self.costs.link.seconds(tokens * self._hidden)
        # What is fetched can be attended to when it is here; all else goes on side by side.
        waits = near_s + away if step.is_fetched else max(near_s, away)
        path = tier1 - near_s + waits + (0.0 if self.is_first else hop)
        worker, drives = there.attend + there.store, there.read + there.write
        return Times(tier1, worker, drives, link, path, plain, prefill, near_s)

    def beside_s(self, step: AverageStep) -> float:
        """Tier 1's part in attention to what workers keep: all that is fetched, or the share whose
        keys and values it makes again."""
        rows, share = step.far_rows, 1.0 if step.is_fetched else step.xcache
        tokens = round(rows * self._workload.mean_context * share)
        if not tokens:
            return 0.0
        seconds = self.costs.near_s(ceil(rows), tokens)
        return seconds if step.is_fetched else seconds + self.costs.rebuild_s(tokens)

    def balance(self, step: AverageStep, workers: int) -> float:
        """The share of the context to make again on Tier 1, so that neither drives nor workers'
        cores are busy for longer than it."""
        now = self.run(step, workers)
        rebuild_s = self.beside_s(replace(step, xcache=1.0))
        # Without what memory spares: that is spared at any share.
        whole = self._worker_s(replace(step, read_share=1.0), workers)
        drives_s = whole.read + whole.write
        by_drives = rebuilt_share(drives_s, rebuild_s, now.tier1 + drives_s - now.drives)
        by_cores = rebuilt_share(whole.attend, rebuild_s, now.tier1 + whole.attend - now.worker)
        return max(by_drives, by_cores)

    def doubled_s(self, step: AverageStep) -> float:
        """What twice the decode rows would add to a plain step."""
        logits = 2 * ceil(step.rows) if self.is_last else 0
        return self.costs.dense_s(2 * ceil(step.rows), logits) - self._dense_s(step)[0]

    def _dense_s(self, step: AverageStep) -> tuple[float, float]:
        """Of a step without prompts, and with them."""
        rows, tokens = ceil(step.rows), ceil(step.rows + step.prompts * self._workload.mean_input)
        logits = rows if self.is_last else 0
        plain = self.costs.dense_s(rows, logits) if rows else 0.0
        if not step.with_prompts:
            return plain, plain
        mixed = self.costs.dense_s(tokens, logits + ceil(step.prompts) if self.is_last else 0)
        return plain, mixed + step.prompts * self._prompt_s

    def _worker_s(self, step: AverageStep, workers: int) -> _Far:
        """Of one worker; and Tier 1's parcels to all."""
        costs, rows = self.costs, step.far_rows / workers
        stored = round(step.prompts_a_step * self._workload.mean_input * step.far_share / workers)
        tokens = rows * self._workload.mean_context * (1 - step.xcache)
        written = (rows + stored) * (1 - step.xcache) if step.is_written else 0.0
        attends = rows and not step.is_fetched
        return _Far(
            attend=costs.far_s(ceil(rows), round(tokens)) if attends else 0.0,
            store=costs.store_s(stored),
            read=costs.drive_s(ceil(rows), step.read_share * tokens, 0),
            write=costs.drive_s(0, 0, written),
            parcels=workers * costs.parcel_s(ceil(rows), stored),
        )

    def _link_s(self, step: AverageStep) -> tuple[float, float]:
        """Busy with a step in the busier direction; and a row's parcels there and back."""
        prompt_tokens = step.prompts_a_step * self._workload.mean_input
        hidden = (step.rows + prompt_tokens) * self._hidden
        out, back = step.far_rows * self._out, step.far_rows * self._back
        if step.is_fetched:
            out = step.far_rows * self._kv_wire
            back = step.far_rows * self._workload.mean_context * self._kv_kept
        sent = out + prompt_tokens * step.far_share * self._kv_wire
        sent += 0 if self.is_last else hidden
        received = back + (0 if self.is_first else hidden)
        seconds = self.costs.link.seconds
        return seconds(max(sent, received)), seconds(out) + seconds(back)
