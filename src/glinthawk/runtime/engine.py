"""The engine carries the scheduler's commands out on a node. Knows token ids, never text."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from glinthawk.core.batch import Batch
from glinthawk.core.errors import UsageError, WorkerLost
from glinthawk.core.sequence import Request, Sequence
from glinthawk.scheduler.commands import (
    Abort,
    Command,
    Finish,
    HomeJoined,
    HomeLost,
    Paced,
    Release,
    Step,
    Stepped,
    Submitted,
)
from glinthawk.scheduler.pace import Pace
from glinthawk.scheduler.scheduler import BatchLimits, Scheduler
from glinthawk.tier1.homes import Home
from glinthawk.tier1.node import Node
from glinthawk.tier1.sampler import Sampled

__all__ = ["Engine", "StopFound"]

_log = logging.getLogger(__name__)

#: Requests read ahead of need: enough to find long answers early, few enough for any memory.
_MIN_AHEAD = 512

#: Whether a sequence's text, with one more token, contains one of its stop strings.
StopFound = Callable[[Sequence, int], bool]


def _never(_sequence: Sequence, _token: int) -> bool:
    return False


class Engine:
    """Answers requests on one node with its homes. ``pace`` is what was measured before."""

    def __init__(
        self, node: Node, homes: Iterable[Home], limits: BatchLimits, pace: Pace | None = None
    ) -> None:
        self._node = node
        self._pace = pace
        self.scheduler = Scheduler(limits)
        self._ahead = max(_MIN_AHEAD, 2 * limits.batch_size * limits.batches_in_flight)
        self._draining = False
        self.input_s = 0.0
        for home in homes:
            self.scheduler.handle(HomeJoined(home.id, home.num_pages, home.page_tokens))
        if pace is not None:
            self.scheduler.handle(Paced(pace))

    def drain(self) -> None:
        """Begin nothing new; ``generate`` ends when what runs has ended."""
        self._draining = True

    def generate(
        self,
        requests: Iterable[Request],
        stop_found: StopFound = _never,
        after_step: Callable[[], None] = lambda: None,
    ) -> Iterator[Sequence]:
        """Finished sequences, in the order in which they finish; ``requests`` is read as needed.

        ``after_step`` is called between steps, for what must happen though nothing finishes.
        """
        source = iter(requests)
        self._draining = False
        more = True
        while True:
            more = more and self._feed(source)
            yield from self._carry_out(self.scheduler.schedule())
            if self._draining:
                self.scheduler.drop_waiting()
            if not self._node.num_running:
                if self.scheduler.is_idle and not more:
                    return
                self._check_progress()
            yield from self._poll(stop_found)
            after_step()

    def _feed(self, source: Iterator[Request]) -> bool:
        """Read ahead; whether there may be more."""
        begun = time.perf_counter()
        try:
            return self._read_ahead(source)
        finally:
            self.input_s += time.perf_counter() - begun

    def _read_ahead(self, source: Iterator[Request]) -> bool:
        while not self._draining and len(self.scheduler.waiting) < self._ahead:
            request = next(source, None)
            if request is None:
                return False
            self.scheduler.handle(Submitted(Sequence(request)))
        return not self._draining

    def _check_progress(self) -> None:
        if self.scheduler.waiting and not self._draining:
            raise UsageError(
                "no place that is left can hold the waiting requests' KV; give more memory "
                "(--worker-kv, --tier1-kv) and run the same command again"
            )

    def _poll(self, stop_found: StopFound) -> Iterator[Sequence]:
        try:
            results = self._node.poll()
        except WorkerLost as error:
            yield from self._lose_home(error)
            return
        for batch, sampled in results:
            yield from self._take_in(batch, sampled, stop_found)  # type: ignore[arg-type]
        self._tell_pace()

    def _tell_pace(self) -> None:
        if self._pace is not None and self._node.attention:
            num_layers = self._node.num_layers
            attend_s = {
                home: num_layers * speed.seconds_per_token
                for home, speed in self._node.attention.items()
            }
            self.scheduler.handle(Paced(replace(self._pace, attend_s=attend_s)))

    def _take_in(
        self, batch: Batch, sampled: list[Sampled], stop_found: StopFound
    ) -> Iterator[Sequence]:
        for span, choice in zip(batch.spans, sampled, strict=True):
            if choice.logprobs is not None:
                span.sequence.logprobs.append(choice.logprobs)
        tokens = tuple(choice.token for choice in sampled)
        stopped = frozenset(
            span.sequence.id
            for span, token in zip(batch.spans, tokens, strict=True)
            if span.sequence.request.params.stop and stop_found(span.sequence, token)
        )
        yield from self._carry_out(self.scheduler.handle(Stepped(batch, tokens, stopped)))

    def _carry_out(self, commands: Iterable[Command]) -> Iterator[Sequence]:
        for command in commands:
            match command:
                case Step(batch):
                    self._node.start(batch)
                case Release(home, sequences):
                    self._node.release(home, list(sequences))
                case Abort(batch):
                    self._node.abort(batch.id)
                case Finish(sequence):
                    yield sequence

    def _lose_home(self, error: WorkerLost) -> Iterator[Sequence]:
        """Go on without a worker; its sequences are prefilled again elsewhere."""
        assert error.home is not None
        if self.scheduler.homes == [error.home]:
            raise error
        _log.warning("%s; its sequences begin again elsewhere", error)
        self._node.lose(error.home)
        yield from self._carry_out(self.scheduler.handle(HomeLost(error.home)))
