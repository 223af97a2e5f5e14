"""The average step of a plan: what one pipeline slice, its workers and its link do for it."""

from dataclasses import dataclass, field, replace
from math import ceil

from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.formulas import rebuilt_share
from glinthawk.planner.work import (
    FarWork,
    HomeLoad,
    Keeping,
    beside_s,
    dense_s,
    near_s,
    sampling_s,
    weigh_far,
)
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
    #: Of every worker.
    keeping: Keeping = field(default_factory=Keeping)

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


class SlicePart:
    """One slice's part in the average step."""

    def __init__(self, costs: SliceCosts, workload: Workload, position: tuple[int, int]) -> None:
        self.costs, self._workload = costs, workload
        self.is_first, self.is_last = position[0] == 0, position[0] == position[1] - 1
        self._hidden = costs.shape.hidden_bytes
        self._prompt_s = costs.prompt_s([round(workload.rms_input)])
        self._trips_s = 2 * len(costs.shape.layers) * costs.link.latency_s

    def run(self, step: AverageStep, workers: int) -> Times:
        """Seconds that each resource is taken for one step."""
        plain, mixed = self._dense_s(step)
        prefill = step.with_prompts * (mixed - plain)
        far = weigh_far(self.costs, self._load(step, workers), step.keeping)
        context = self._workload.mean_context
        near = near_s(self.costs, step.near_rows, step.near_rows * context)
        near += workers * far.beside_s
        tier1 = plain + prefill + near + workers * far.parcel_s
        tier1 += sampling_s(self.costs, step.rows + step.prompts_a_step)
        away = self._away_s(far, workers) if step.far_rows else 0.0
        # What is fetched can be attended to when it is here; all else goes on side by side.
        waits = near + away if step.keeping.is_fetched else max(near, away)
        hidden = self._hidden_bytes(step)
        hop = self.costs.link.latency_s + self.costs.link.seconds(hidden)
        path = tier1 - near + waits + (0.0 if self.is_first else hop)
        link = self._link_s(far, workers, hidden)
        worker, drives = far.attend_s + far.store_s, far.read_s + far.write_s
        return Times(tier1, worker, drives, link, path, plain, prefill, near)

    def balance(self, step: AverageStep, workers: int) -> float:
        """The share of the context to make again on Tier 1, so that neither drives nor workers'
        cores are busy for longer than it."""
        now, load = self.run(step, workers), self._load(step, workers)
        rebuild_s = workers * beside_s(self.costs, load, replace(step.keeping, xcache=1.0))
        # Without what memory spares: that is spared at any share.
        whole = weigh_far(self.costs, load, replace(step.keeping, read_share=1.0))
        drives_s = whole.read_s + whole.write_s
        by_drives = rebuilt_share(drives_s, rebuild_s, now.tier1 + drives_s - now.drives)
        by_cores = rebuilt_share(whole.attend_s, rebuild_s, now.tier1 + whole.attend_s - now.worker)
        return max(by_drives, by_cores)

    def doubled_s(self, step: AverageStep) -> float:
        """What twice the decode rows would add to a plain step."""
        rows = 2 * ceil(step.rows)
        return dense_s(self.costs, rows, rows) - self._dense_s(step)[0]

    def _dense_s(self, step: AverageStep) -> tuple[float, float]:
        """Of a step without prompts, and with them."""
        plain = dense_s(self.costs, step.rows, step.rows)
        if not step.with_prompts:
            return plain, plain
        tokens = step.rows + step.prompts * self._workload.mean_input
        mixed = dense_s(self.costs, tokens, ceil(step.rows) + ceil(step.prompts))
        return plain, mixed + step.prompts * self._prompt_s

    def _load(self, step: AverageStep, workers: int) -> HomeLoad:
        """Of one worker; where there are none, no rows are far."""
        rows = step.far_rows / max(1, workers)
        prompt_tokens = step.prompts_a_step * self._workload.mean_input * step.far_share
        return HomeLoad(rows, rows * self._workload.mean_context, prompt_tokens / max(1, workers))

    def _hidden_bytes(self, step: AverageStep) -> float:
        return (step.rows + step.prompts_a_step * self._workload.mean_input) * self._hidden

    def _away_s(self, far: FarWork, workers: int) -> float:
        """From a row's parcels leaving to the last answer."""
        seconds = self.costs.link.seconds
        trip = seconds(workers * far.row_bytes) + seconds(workers * far.bytes_back)
        return max(far.attend_s, far.read_s) + trip + self._trips_s

    def _link_s(self, far: FarWork, workers: int, hidden: float) -> float:
        """Busy with a step in the busier direction."""
        sent = workers * (far.row_bytes + far.prompt_bytes) + (0 if self.is_last else hidden)
        received = workers * far.bytes_back + (0 if self.is_first else hidden)
        return self.costs.link.seconds(max(sent, received))
