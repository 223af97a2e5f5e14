"""A Tier-1 node, its links and its workers on a virtual clock: each does one thing at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from glinthawk.core.batch import Batch
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.work import FarWork, SliceWork
from glinthawk.telemetry.trace import Tracer

__all__ = ["Flight", "Workshop"]


@dataclass(slots=True, eq=False)
class Flight:
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


@dataclass(slots=True, eq=False)
class Workshop:
    """One pipeline slice's node and all it works with; seconds are those of the virtual clock."""

    index: int
    costs: SliceCosts
    #: That a step is simulated in.
    num_layers: int
    #: Factors on the seconds of a home; the machine of each home's worker, from home 1 on.
    slow: Mapping[int, float]
    machines: Sequence[int]
    trace: Tracer | None
    ready: list[Flight] = field(default_factory=list)
    #: When each is free again: the node, its link out and back; workers and drives by machine.
    free_s: float = 0.0
    out_s: float = 0.0
    back_s: float = 0.0
    worker_free_s: dict[int, float] = field(default_factory=dict)
    drives_free_s: dict[int, float] = field(default_factory=dict)
    #: How long each was busy; workers and drives by home.
    busy_s: float = 0.0
    out_busy_s: float = 0.0
    back_busy_s: float = 0.0
    worker_busy_s: dict[int, float] = field(default_factory=dict)
    drives_busy_s: dict[int, float] = field(default_factory=dict)

    def compute(self, flight: Flight, now_s: float) -> None:
        """Run Tier 1 up to the next attention."""
        seconds = flight.works[self.index].tier1_s(flight.layer, self.num_layers)
        self.busy_s += seconds
        self.free_s = now_s + seconds
        self._add(f"tier 1, slice {self.index}", flight, flight.layer, now_s, seconds)

    def attend(self, flight: Flight) -> float:
        """When the batch can go on: its parcels leave now, one after the other."""
        work = flight.works[self.index]
        visits = (self._visit(flight, home, far) for home, far in work.far.items())
        return max(visits, default=self.free_s)

    def pass_on(self, flight: Flight) -> float:
        """Send the hidden state to the next node; when it is there."""
        seconds = self.costs.link.seconds(flight.works[self.index].hidden_bytes)
        self.out_s = max(self.free_s, self.out_s) + seconds
        self.out_busy_s += seconds
        return self.out_s + self.costs.link.latency_s

    def _visit(self, flight: Flight, home: int, far: FarWork) -> float:
        """When a worker's answer is back; where none is due, now."""
        link, num_layers = self.costs.link, self.num_layers
        seconds = link.seconds(far.row_bytes + far.prompt_bytes) / num_layers
        self.out_s = max(self.free_s, self.out_s) + seconds
        self.out_busy_s += seconds
        latency_s = link.latency_s * len(self.costs.shape.layers) / num_layers
        arrived_s = self.out_s + latency_s
        back_s, answered_s = self.free_s, self._answer(flight, home, far, arrived_s)
        if far.bytes_back:
            seconds = link.seconds(far.bytes_back) / num_layers
            self.back_s = max(answered_s, self.back_s) + seconds
            self.back_busy_s += seconds
            back_s = self.back_s + latency_s
        if far.prompt_bytes:
            stored_s = self._serve(flight, home, arrived_s, far.store_s / num_layers)
            flight.stored_s = max(flight.stored_s, stored_s + link.latency_s)
        return back_s

    def _answer(self, flight: Flight, home: int, far: FarWork, arrived_s: float) -> float:
        """When a worker has attended; to nothing else before its drives have read for this."""
        answered_s = self._serve(flight, home, arrived_s, far.attend_s / self.num_layers)
        if not far.read_s and not far.write_s:
            return answered_s
        read_s = self._drive(flight, home, arrived_s, far.read_s / self.num_layers)
        self._drive(flight, home, arrived_s, far.write_s / self.num_layers)
        answered_s = max(answered_s, read_s)
        self.worker_free_s[self.machines[home - 1]] = answered_s
        return answered_s

    def _serve(self, flight: Flight, home: int, arrived_s: float, seconds: float) -> float:
        """When worker ``home`` has done what arrived then."""
        done_s = self._take(self.worker_free_s, self.worker_busy_s, home, arrived_s, seconds)
        process, seconds = f"worker {home}, slice {self.index}", seconds * self.slow.get(home, 1.0)
        self._add(process, flight, flight.layer - 1, done_s - seconds, seconds)
        return done_s

    def _drive(self, flight: Flight, home: int, asked_s: float, seconds: float) -> float:
        """When the drives of worker ``home`` have done what was asked of them then."""
        if not seconds:
            return asked_s
        done_s = self._take(self.drives_free_s, self.drives_busy_s, home, asked_s, seconds)
        process, seconds = f"drives {home}, slice {self.index}", seconds * self.slow.get(home, 1.0)
        self._add(process, flight, flight.layer - 1, done_s - seconds, seconds)
        return done_s

    def _take(
        self,
        free_s: dict[int, float],
        busy_s: dict[int, float],
        home: int,
        from_s: float,
        seconds: float,
    ) -> float:
        """When something of ``home`` that is free at ``free_s`` is done."""
        seconds *= self.slow.get(home, 1.0)
        machine = self.machines[home - 1]
        free_s[machine] = max(from_s, free_s.get(machine, 0.0)) + seconds
        busy_s[home] = busy_s.get(home, 0.0) + seconds
        return free_s[machine]

    def _add(
        self, process: str, flight: Flight, layer: int, begun_s: float, seconds: float
    ) -> None:
        if self.trace is not None and seconds:
            self.trace.add(process, flight.lane, f"layer {layer}", begun_s, seconds)
