"""The scheduler of a real run on a virtual clock: what a plan makes of requests, in seconds.

Events are the ends of Tier 1's stretches between two attentions. A node runs the deepest of its
batches that can run, as tier1/node.py does; a worker answers in the order of what arrives, once its
drives have read what is not in memory; a link carries one parcel after the other. A step may be
simulated in fewer layers than the model has, each taking as much longer: what overlaps stays the
same but for the edges of a step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count, islice

from glinthawk.core.batch import Batch
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan, largest_page_bytes
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as Answering
from glinthawk.planner.costs import SliceCosts
from glinthawk.planner.outcome import Outcome
from glinthawk.planner.sim_node import SimBatch, SimNode
from glinthawk.planner.work import Keeping, keep, weigh
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import Finish, HomeJoined, Step, Stepped, Submitted
from glinthawk.scheduler.scheduler import Scheduler
from glinthawk.scheduler.step_cost import TIER1
from glinthawk.telemetry.trace import Tracer

__all__ = ["Simulator"]

#: Requests that the scheduler sees ahead, as in a run.
_AHEAD = 512
#: Layers of all slices together that a step is simulated in, unless told.
_LAYERS = 8

_READY, _FREE, _DONE = range(3)


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
        self._events: list[tuple[float, int, int, SimBatch | SimNode]] = []
        self._numbers = count()
        apart = machines or range(plan.workers_per_slice)
        self._nodes = [
            SimNode(index, one, _num_layers(one, layers, len(slices)), slow or {}, apart, trace)
            for index, one in enumerate(slices)
        ]
        self._running: dict[int, SimBatch] = {}
        self._outcome = Outcome(plan)
        self._page_bytes = largest_page_bytes((one.shape for one in slices), plan.kv_dtype)
        limits = BatchLimits(plan.batch_size, plan.batches_in_flight, plan.batch_tokens)
        self._scheduler = Scheduler(limits)
        for home, num_pages in enumerate(pages):
            most = None if home == TIER1 else plan.most_tails(self._page_bytes)
            if num_pages and most != 0:
                self._scheduler.handle(HomeJoined(home, num_pages, PAGE_TOKENS, most))

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
                assert isinstance(what, SimBatch)
                self._finish(what)
                self._proceed(source)
                if until():
                    return self._conclude()
            elif kind == _READY:
                assert isinstance(what, SimBatch)
                node = self._nodes[what.slice]
                node.ready.append(what)
                self._advance(node)
            else:
                assert isinstance(what, SimNode)
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
        works = weigh(batch, [node.costs for node in self._nodes], self._keeping())
        taken = {running.lane for running in self._running.values()}
        running = SimBatch(batch, works, next(lane for lane in count() if lane not in taken))
        self._running[batch.id] = running
        self._push(self._clock_s, _READY, running)

    def _keeping(self) -> dict[int, Keeping]:
        plan, scheduler = self._outcome.plan, self._scheduler
        return {
            home: keep(plan, self._page_bytes, scheduler.num_pages_used(home))
            for home in scheduler.homes
            if home != TIER1
        }

    def _finish(self, running: SimBatch) -> None:
        batch = running.batch
        del self._running[batch.id]
        tokens = tuple([(1,) * span.num_sampled for span in batch.spans])
        num_tokens, num_living = sum(map(len, tokens)), self._scheduler.num_living
        commands = self._scheduler.handle(Stepped(batch, tokens))
        num_ended = sum(isinstance(command, Finish) for command in commands)
        self._outcome.stepped(self._clock_s, num_tokens, num_living, num_ended)

    # -- the clock ---------------------------------------------------------------------------------

    def _push(self, at_s: float, kind: int, what: SimBatch | SimNode) -> None:
        heappush(self._events, (at_s, next(self._numbers), kind, what))

    def _advance(self, node: SimNode) -> None:
        """Run a batch up to its next attention, if the node is free and there is one."""
        if not node.ready or node.free_s > self._clock_s:
            return
        # Of equal depth, the one that has waited longest.
        running = max(node.ready, key=lambda running: running.layer)
        node.ready.remove(running)
        node.compute(running, self._clock_s)
        self._push(node.free_s, _FREE, node)
        if running.layer < node.num_layers:
            running.layer += 1
            self._push(node.attend(running), _READY, running)
        elif node.index + 1 < len(self._nodes):
            running.slice, running.layer = node.index + 1, 0
            self._push(node.pass_on(running), _READY, running)
        else:
            self._push(max(node.free_s, running.stored_s), _DONE, running)

    def _conclude(self) -> Outcome:
        outcome = self._outcome
        outcome.seconds = self._clock_s
        outcome.num_preemptions = self._scheduler.counts.preemptions
        seconds = self._clock_s or 1.0
        outcome.tier1_busy = [node.busy_s / seconds for node in self._nodes]
        outcome.link_busy = [
            max(node.out.busy_s, node.back.busy_s) / seconds for node in self._nodes
        ]
        outcome.tier2_busy = [
            busy_s / seconds for node in self._nodes for busy_s in node.workers.busy_s.values()
        ]
        outcome.drives_busy = [
            busy_s / seconds for node in self._nodes for busy_s in node.drives.busy_s.values()
        ]
        return outcome


def _num_layers(costs: SliceCosts, layers: int | None, num_slices: int) -> int:
    return min(len(costs.shape.layers), layers or max(2, _LAYERS // num_slices))
