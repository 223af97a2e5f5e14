"""A Tier-1 node, its links and its workers on a virtual clock: each does one thing at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from glinthawk.core.batch import Batch
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.work import FarWork, SliceWork
from glinthawk.telemetry.trace import Tracer

__all__ = ["Crew", "Lane", "SimBatch", "SimNode"]


@dataclass(slots=True, eq=False)
class SimBatch:
    """A batch on its way through slices and layers."""

    batch: Batch
    #: What it costs on each slice.
    works: list[SliceWork]
    #: Its place in a trace.
    lane: int
    slice: int = 0
    layer: int = 0
    #: When the last of its prompts are kept at their homes.
    stored_s: float = 0.0


@dataclass(slots=True)
class Lane:
    """One direction of a link: one parcel after the other."""

    free_s: float = 0.0
    busy_s: float = 0.0

    def take(self, from_s: float, seconds: float) -> float:
        """When what is there from then on has passed."""
        self.free_s = max(from_s, self.free_s) + seconds
        self.busy_s += seconds
        return self.free_s


@dataclass(slots=True)
class Crew:
    """The workers of a slice, or their drives: each does one thing at a time."""

    name: str
    #: When each is free again, by machine; and how long it was busy, by home.
    free_s: dict[int, float] = field(default_factory=dict)
    busy_s: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class SimNode:
    """One pipeline slice's node and all it works with; seconds are those of the virtual clock."""

    index: int
    costs: SliceCosts
    #: That a step is simulated in.
    num_layers: int
    #: Factors on the seconds of a home; the machine of each home's worker, from home 1 on.
    slow: Mapping[int, float]
    machines: Sequence[int]
    trace: Tracer | None
    ready: list[SimBatch] = field(default_factory=list)
    free_s: float = 0.0
    busy_s: float = 0.0
    #: The node's link.
    out: Lane = field(default_factory=Lane)
    back: Lane = field(default_factory=Lane)
    workers: Crew = field(default_factory=lambda: Crew("worker"))
    drives: Crew = field(default_factory=lambda: Crew("drives"))

    def compute(self, running: SimBatch, now_s: float) -> None:
        """Run Tier 1 up to the next attention."""
        seconds = running.works[self.index].tier1_s(running.layer, self.num_layers)
        self.busy_s += seconds
        self.free_s = now_s + seconds
        self._add("tier 1", running, running.layer, now_s, seconds)

    def attend(self, running: SimBatch) -> float:
        """When the batch can go on: its parcels leave now, one after the other."""
        work = running.works[self.index]
        visits = (self._visit(running, home, far) for home, far in work.far.items())
        return max(visits, default=self.free_s)

    def pass_on(self, running: SimBatch) -> float:
        """Send the hidden state to the next node; when it is there."""
        link, num_bytes = self.costs.link, running.works[self.index].hidden_bytes
        return self.out.take(self.free_s, link.seconds(num_bytes)) + link.latency_s

    def _visit(self, running: SimBatch, home: int, far: FarWork) -> float:
        """When a worker's answer is back; where none is due, now."""
        link, num_layers = self.costs.link, self.num_layers
        latency_s = link.latency_s * len(self.costs.shape.layers) / num_layers
        sent_s = link.seconds(far.row_bytes + far.prompt_bytes) / num_layers
        arrived_s = self.out.take(self.free_s, sent_s) + latency_s
        back_s, answered_s = self.free_s, self._answer(running, home, far, arrived_s)
        if far.bytes_back:
            received_s = link.seconds(far.bytes_back) / num_layers
            back_s = self.back.take(answered_s, received_s) + latency_s
        if far.prompt_bytes:
            stored_s = self._serve(self.workers, running, home, arrived_s, far.store_s)
            running.stored_s = max(running.stored_s, stored_s + link.latency_s)
        return back_s

    def _answer(self, running: SimBatch, home: int, far: FarWork, arrived_s: float) -> float:
        """When a worker has attended; to nothing else before its drives have read for this."""
        answered_s = self._serve(self.workers, running, home, arrived_s, far.attend_s)
        if far.read_s:
            read_s = self._serve(self.drives, running, home, arrived_s, far.read_s)
            answered_s = max(answered_s, read_s)
            self.workers.free_s[self.machines[home - 1]] = answered_s
        if far.write_s:
            self._serve(self.drives, running, home, arrived_s, far.write_s)
        return answered_s

    def _serve(
        self, crew: Crew, running: SimBatch, home: int, asked_s: float, step_s: float
    ) -> float:
        """When the one of ``home`` has done what it is asked then: its part of ``step_s``."""
        machine, seconds = self.machines[home - 1], step_s / self.num_layers
        seconds *= self.slow.get(home, 1.0)
        done_s = max(asked_s, crew.free_s.get(machine, 0.0)) + seconds
        crew.free_s[machine] = done_s
        crew.busy_s[home] = crew.busy_s.get(home, 0.0) + seconds
        self._add(f"{crew.name} {home}", running, running.layer - 1, done_s - seconds, seconds)
        return done_s

    def _add(self, who: str, running: SimBatch, layer: int, begun_s: float, seconds: float) -> None:
        if self.trace is not None and seconds:
            process = f"{who}, slice {self.index}"
            self.trace.add(process, running.lane, f"layer {layer}", begun_s, seconds)
