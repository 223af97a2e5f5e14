"""The scheduler of a real run on a virtual clock: what a plan makes of requests, in seconds.

Events are the ends of Tier 1's stretches between two attentions. A node runs the deepest of its
batches that can run, as tier1/node.py does; a worker answers in the order of what arrives; a link
carries one parcel after the other. A step may be simulated in fewer layers than the model has, each
taking as much longer: what overlaps stays the same but for the edges of a step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, islice

from glinthawk.core.batch import Batch
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as Answering
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.outcome import Outcome
from glinthawk.planner.work import SliceWork, weigh
from glinthawk.scheduler.commands import Finish, HomeJoined, Step, Stepped, Submitted
from glinthawk.scheduler.scheduler import BatchLimits, Scheduler
from glinthawk.telemetry.trace import Tracer

__all__ = ["Simulator"]

#: Requests that the scheduler sees ahead, as in a run.
_AHEAD = 512
#: Layers of all slices together that a step is simulated in, unless told.
_LAYERS = 8

_READY, _FREE, _DONE = range(3)


@dataclass(slots=True, eq=False)
class _Flight:
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
class _Node:
    """A Tier-1 node, its links and its workers: each does one thing at a time."""

    index: int
    costs: SliceCosts
    num_layers: int
    ready: list[_Flight] = field(default_factory=list)
    free_s: float = 0.0
    out_s: float = 0.0
    back_s: float = 0.0
    busy_s: float = 0.0
    link_busy_s: float = 0.0
    worker_free_s: dict[int, float] = field(default_factory=dict)
    worker_busy_s: dict[int, float] = field(default_factory=dict)


class Simulator:
    """Runs ``plan`` where ``slices`` say what things cost.

    ``layers`` is the number of layers that are simulated, None: few. ``slow`` are factors on a
    worker's seconds, by home; ``machines`` is the machine of each worker of a slice, if several
    workers share one.
    """

    def __init__(
        self,
        plan: Plan,
        slices: Sequence[SliceCosts],
        pages: Sequence[int],
        *,
        layers: int | None = None,
        slow: Mapping[int, float] | None = None,
        machines: Sequence[int] | None = None,
        trace: Tracer | None = None,
    ) -> None:
        self._clock_s = 0.0
        self._events: list[tuple[float, int, int, _Flight | _Node]] = []
        self._numbers = count()
        self._slow = slow or {}
        self._machines = machines or range(plan.workers_per_slice)
        self._trace = trace
        self._nodes = [
            _Node(index, costs, _num_layers(costs, layers, len(slices)))
            for index, costs in enumerate(slices)
        ]
        self._flights: dict[int, _Flight] = {}
        self._outcome = Outcome(plan)
        limits = BatchLimits(plan.batch_size, plan.batches_in_flight, plan.batch_tokens)
        self._scheduler = Scheduler(limits)
        for home, num_pages in enumerate(pages):
            if num_pages:
                self._scheduler.handle(HomeJoined(home, num_pages, PAGE_TOKENS))

    @property
    def outcome(self) -> Outcome:
        """So far."""
        return self._outcome

    def run(
        self, requests: Iterable[Request], until: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """Answer all ``requests``, or stop early; every answer is as long as it may be.

        Raises UsageError when no home can hold one of them.
        """
        source = iter(requests)
        self._proceed(source)
        while self._events:
            self._clock_s, _, kind, what = heappop(self._events)
            if kind == _DONE:
                assert isinstance(what, _Flight)
                self._finish(what)
                self._proceed(source)
                if until():
                    return self._conclude()
            elif kind == _READY:
                assert isinstance(what, _Flight)
                node = self._nodes[what.slice]
                node.ready.append(what)
                self._advance(node)
            else:
                assert isinstance(what, _Node)
                self._advance(what)
        if not self._scheduler.is_idle:
            raise UsageError(
                "this plan has no room for the KV cache of one request; give it more memory"
            )
        return self._conclude()

    # -- the scheduler -----------------------------------------------------------------------------

    def _proceed(self, source: Iterator[Request]) -> None:
        """Read ahead and start what can start."""
        scheduler = self._scheduler
        for request in islice(source, max(0, _AHEAD - len(scheduler.waiting))):
            self._outcome.prompt_tokens += len(request.prompt)
            scheduler.handle(Submitted(Answering(request)))
        for command in scheduler.schedule():
            if isinstance(command, Step):
                self._start(command.batch)
        if not scheduler.waiting:
            self._outcome.all_begun(self._clock_s)

    def _start(self, batch: Batch) -> None:
        works = weigh(batch, [node.costs for node in self._nodes])
        taken = {flight.lane for flight in self._flights.values()}
        flight = _Flight(batch, works, next(lane for lane in count() if lane not in taken))
        self._flights[batch.id] = flight
        self._push(self._clock_s, _READY, flight)

    def _finish(self, flight: _Flight) -> None:
        batch = flight.batch
        del self._flights[batch.id]
        num_tokens, num_living = len(batch.spans), self._scheduler.num_living
        commands = self._scheduler.handle(Stepped(batch, (1,) * num_tokens))
        num_ended = sum(isinstance(command, Finish) for command in commands)
        self._outcome.stepped(self._clock_s, num_tokens, num_living, num_ended)

    # -- the machines ------------------------------------------------------------------------------

    def _push(self, at_s: float, kind: int, what: _Flight | _Node) -> None:
        heappush(self._events, (at_s, next(self._numbers), kind, what))

    def _advance(self, node: _Node) -> None:
        """Run a batch up to its next attention, if the node is free and there is one."""
        if not node.ready or node.free_s > self._clock_s:
            return
        # Of equal depth, the one that has waited longest.
        flight = max(node.ready, key=lambda flight: flight.layer)
        node.ready.remove(flight)
        work = flight.works[node.index]
        seconds = work.tier1_s(flight.layer, node.num_layers)
        node.busy_s += seconds
        node.free_s = self._clock_s + seconds
        if self._trace is not None:
            name = f"layer {flight.layer}"
            self._trace.add(
                f"tier 1, slice {node.index}", flight.lane, name, self._clock_s, seconds
            )
        self._push(node.free_s, _FREE, node)
        if flight.layer < node.num_layers:
            flight.layer += 1
            self._push(self._attend(node, flight, work), _READY, flight)
        elif node.index + 1 < len(self._nodes):
            self._pass_on(node, flight, work)
        else:
            self._push(max(node.free_s, flight.stored_s), _DONE, flight)

    def _attend(self, node: _Node, flight: _Flight, work: SliceWork) -> float:
        """When the batch can go on: its parcels leave now, one after the other."""
        link, num_layers = node.costs.link, node.num_layers
        ready_s = node.free_s
        for far in work.far:
            takes_s = link.seconds(far.bytes_out) / num_layers
            node.out_s = max(node.free_s, node.out_s) + takes_s
            node.link_busy_s += takes_s
            arrived_s = node.out_s + link.latency_s * work.num_layers / num_layers
            answered_s = self._serve(node, flight, far.home, arrived_s, far.attend_s / num_layers)
            if far.bytes_back:
                takes_s = link.seconds(far.bytes_back) / num_layers
                node.back_s = max(answered_s, node.back_s) + takes_s
                back_s = node.back_s + link.latency_s * work.num_layers / num_layers
                ready_s = max(ready_s, back_s)
            if far.store_s is not None:
                stored_s = self._serve(node, flight, far.home, arrived_s, far.store_s / num_layers)
                flight.stored_s = max(flight.stored_s, stored_s + link.latency_s)
        return ready_s

    def _serve(
        self, node: _Node, flight: _Flight, home: int, arrived_s: float, seconds: float
    ) -> float:
        """When worker ``home`` has done what arrived then."""
        seconds *= self._slow.get(home, 1.0)
        machine = self._machines[home - 1]
        begun_s = max(arrived_s, node.worker_free_s.get(machine, 0.0))
        node.worker_free_s[machine] = begun_s + seconds
        node.worker_busy_s[home] = node.worker_busy_s.get(home, 0.0) + seconds
        if self._trace is not None and seconds:
            name = f"layer {flight.layer - 1}"
            process = f"worker {home}, slice {node.index}"
            self._trace.add(process, flight.lane, name, begun_s, seconds)
        return begun_s + seconds

    def _pass_on(self, node: _Node, flight: _Flight, work: SliceWork) -> None:
        """Send the hidden state to the next node."""
        link = node.costs.link
        takes_s = link.seconds(work.hidden_bytes)
        node.out_s = max(node.free_s, node.out_s) + takes_s
        node.link_busy_s += takes_s
        flight.slice, flight.layer = node.index + 1, 0
        self._push(node.out_s + link.latency_s, _READY, flight)

    def _conclude(self) -> Outcome:
        outcome = self._outcome
        outcome.seconds = self._clock_s
        outcome.num_preemptions = self._scheduler.num_preemptions
        seconds = self._clock_s or 1.0
        outcome.tier1_busy = [node.busy_s / seconds for node in self._nodes]
        outcome.link_busy = [node.link_busy_s / seconds for node in self._nodes]
        outcome.tier2_busy = [
            busy_s / seconds for node in self._nodes for busy_s in node.worker_busy_s.values()
        ]
        return outcome


def _num_layers(costs: SliceCosts, layers: int | None, num_slices: int) -> int:
    return min(len(costs.shape.layers), layers or max(2, _LAYERS // num_slices))
