"""The engine carries the scheduler's commands out on a node. Knows token ids, never text."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

from glinthawk.core.batch import Batch
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import GlinthawkError, UsageError, WorkerLost
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.core.sequence import Phase, Request, Sequence
from glinthawk.engine.event_log import EventLog
from glinthawk.engine.settled_heap import settled_heap
from glinthawk.engine.tier import Done, Tier1
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import (
    Abort,
    Command,
    Dismiss,
    Finish,
    HomeJoined,
    HomeLeaving,
    HomeLost,
    Paced,
    Release,
    Step,
    Stepped,
    Submitted,
    Withdrawn,
)
from glinthawk.scheduler.recorded import RecordedScheduler
from glinthawk.scheduler.scheduler import Scheduler
from glinthawk.tier1.sampler import Sampled

__all__ = ["Engine", "StopFound"]

#: Requests read ahead of need: enough to find long answers early, few enough for any memory.
_MIN_AHEAD = 512

#: Whether a sequence's text, with one more token, contains one of its stop strings.
StopFound = Callable[[Sequence, int], bool]


def _never(_sequence: Sequence, _token: int) -> bool:
    return False


def _scheduler(limits: BatchLimits, events: EventLog | None) -> Scheduler:
    if events is None:
        return Scheduler(limits)
    events.begin(limits, PAGE_TOKENS)
    return RecordedScheduler(limits, events.add)


class Engine:
    """Answers requests. If all homes are lost and some may come back, waits ``wait_s`` for one.

    ``more_kv`` is said to those who give it too little memory, ``events`` is told every call of the
    scheduler.
    """

    def __init__(
        self,
        tier1: Tier1,
        limits: BatchLimits,
        wait_s: float = 60.0,
        more_kv: str = "give more KV memory",
        events: EventLog | None = None,
    ) -> None:
        self._tier1 = tier1
        self._wait_s = wait_s
        self._more_kv = more_kv
        self.scheduler = _scheduler(limits, events)
        self._ahead = max(_MIN_AHEAD, 2 * limits.batch_size * limits.batches_in_flight)
        self._draining = False
        #: Since when nothing has run though something waits.
        self._idle_since: float | None = None
        self.input_s = 0.0
        self._num_sequences = 0
        #: Calls of ``generate`` so far, and whether the last one has not come to its end.
        self._num_calls = 0
        self._is_open, self._why_ended = False, ""
        for joined in tier1.homes():
            self.scheduler.handle(joined)
        self._tell_pace()

    def drain(self) -> None:
        """Begin nothing new; ``generate`` ends when what runs has ended."""
        self._draining = True

    def close(self) -> None:
        """End the call under way: it raises UsageError when it is asked for more."""
        self._num_calls += 1
        self._is_open, self._why_ended = False, "this model is closed; open it again"

    def generate(
        self,
        requests: Iterable[Request | None],
        stop_found: StopFound = _never,
        after_step: Callable[[], None] = lambda: None,
    ) -> Generator[Sequence, None, None]:
        """Finished sequences, in the order in which they finish, and those that are streamed after
        each of their steps; ``requests`` is read as needed, and asked again later where it says
        None: there is none at hand, and others are under way.

        ``after_step`` is called between steps, for what must happen though nothing finishes.

        It may be left at any point, by an exception or an interrupt too: what is under way is
        given up then, and the next call finds nothing of it. A call that begins while an earlier
        one has not ended ends that one, which raises UsageError when it is asked for more.
        """
        self._num_calls += 1
        call = self._num_calls
        if self._is_open:
            self._give_up()
        self._is_open, self._draining, self._idle_since = True, False, None
        self._why_ended = "another call of generate has begun; take all answers first"
        try:
            with settled_heap():
                for sequence in self._answer(iter(requests), stop_found, after_step):
                    yield sequence
                    if call != self._num_calls:
                        raise UsageError(self._why_ended)
            self._is_open = False
        except GeneratorExit:
            # Left between two answers, where nothing is half done: there may be nothing to give up.
            if call == self._num_calls:
                self._is_open = bool(self._tier1.num_running) or not self.scheduler.is_idle
            raise
        finally:
            if self._is_open and call == self._num_calls:
                self._give_up()

    @property
    def room_ahead(self) -> float:
        """Requests that may still be read ahead of need, as a share of all that may."""
        return 1 - len(self.scheduler.waiting) / self._ahead

    def withdraw(self, is_unwanted: Callable[[Request], bool]) -> None:
        """Give up requests, between two steps of ``generate``. One that is just taking its last
        step may have its answer still."""
        unwanted = [one.id for one in self.scheduler.sequences if is_unwanted(one.request)]
        if unwanted:
            commands = self.scheduler.handle(Withdrawn(frozenset(unwanted)))
            deque(self._carry_out(commands), maxlen=0)

    def _give_up(self) -> None:
        """Whatever is half done, and wherever: nothing that there was is used again."""
        self._tier1.reset()
        self.scheduler = self.scheduler.renewed()
        for joined in self._tier1.homes():
            self.scheduler.handle(joined)
        self._is_open = False

    def _answer(
        self,
        source: Iterator[Request | None],
        stop_found: StopFound,
        after_step: Callable[[], None],
    ) -> Iterator[Sequence]:
        more = True
        while True:
            more = more and self._feed(source)
            yield from self._carry_out(self.scheduler.schedule())
            if self._draining:
                self.scheduler.drop_waiting()
            if not self._tier1.num_running and self.scheduler.is_idle and not more:
                return
            self._check_progress()
            yield from self._poll(stop_found)
            after_step()

    def _feed(self, source: Iterator[Request | None]) -> bool:
        """Read ahead; whether there may be more."""
        begun = time.perf_counter()
        try:
            return self._read_ahead(source)
        finally:
            self.input_s += time.perf_counter() - begun

    def _read_ahead(self, source: Iterator[Request | None]) -> bool:
        while not self._draining and len(self.scheduler.waiting) < self._ahead:
            try:
                request = next(source)
            except StopIteration:
                return False
            if request is None:
                break
            self.scheduler.handle(Submitted(Sequence(request, self._num_sequences)))
            self._num_sequences += 1
        return not self._draining

    def _check_progress(self) -> None:
        """Raises UsageError when nothing will ever run, WorkerLost when no home comes back."""
        if self._tier1.num_running or not self.scheduler.waiting or self._draining:
            self._idle_since = None
            return
        words = self._tier1.last_words
        if not self._tier1.is_expecting:
            raise self._hopeless(words)
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since > self._wait_s:
            raise WorkerLost(
                f"no worker has come back for {self._wait_s:g} s{words and f' ({words})'}; start "
                "workers and run the same command again to resume (--wait-for-workers waits longer)"
            )

    def _hopeless(self, words: str) -> GlinthawkError:
        if words:
            return WorkerLost(
                f"no worker comes back that could take the waiting requests: {words}; mend that "
                "and run the same command again to resume"
            )
        return UsageError(
            "no place that is left can hold the waiting requests' KV; "
            f"{self._more_kv} and run the same command again to resume"
        )

    def _poll(self, stop_found: StopFound) -> Iterator[Sequence]:
        for event in self._tier1.poll():
            match event:
                case Done(batch, sampled, scores, pooled):
                    _keep_scores(batch, scores)
                    _keep_pooled(batch, pooled)
                    yield from self._take_in(batch, sampled, stop_found)
                case HomeLost(home):
                    yield from self._carry_out(self.scheduler.handle(event))
                    self._tier1.lose(home)
                case HomeLeaving():
                    yield from self._carry_out(self.scheduler.handle(event))
                case HomeJoined():
                    self.scheduler.handle(event)
        self._tell_pace()

    def _tell_pace(self) -> None:
        if (step_cost := self._tier1.step_cost()) is not None:
            self.scheduler.handle(Paced(step_cost))

    def _take_in(
        self, batch: Batch, sampled: list[tuple[Sampled, ...]], stop_found: StopFound
    ) -> Iterator[Sequence]:
        tokens: list[tuple[int, ...]] = []
        stopped: set[int] = set()
        for span, choices in zip(batch.spans, sampled, strict=True):
            sequence = span.sequence
            kept, is_stopped = _up_to_end(sequence, choices, stop_found)
            sequence.logprobs += [c.logprobs for c in kept if c.logprobs is not None]
            tokens.append(tuple([choice.token for choice in kept]))
            if is_stopped:
                stopped.add(sequence.id)
        event = Stepped(batch, tuple(tokens), frozenset(stopped))
        yield from self._carry_out(self.scheduler.handle(event))
        for span in batch.spans:
            sequence = span.sequence
            if sequence.request.is_streamed and sequence.phase is not Phase.FINISHED:
                yield sequence

    def _carry_out(self, commands: Iterable[Command]) -> Iterator[Sequence]:
        for command in commands:
            match command:
                case Step(batch):
                    self._tier1.start(batch)
                case Release(home, sequences):
                    self._tier1.release(home, list(sequences))
                case Abort(batch):
                    self._tier1.abort(batch.id)
                case Dismiss(home):
                    self._tier1.lose(home)
                case Finish(sequence):
                    yield sequence


def _keep_scores(batch: Batch, scores: Iterable[PromptScores]) -> None:
    scored = [span.sequence for span in batch.spans if span.num_scored]
    for sequence, part in zip(scored, scores, strict=True):
        sequence.scores.append(part)


def _keep_pooled(batch: Batch, parts: Iterable[bytes]) -> None:
    pooled = [span.sequence for span in batch.spans if span.num_pooled]
    for sequence, part in zip(pooled, parts, strict=True):
        sequence.add_pooled(part)


def _up_to_end(
    sequence: Sequence, choices: tuple[Sampled, ...], stop_found: StopFound
) -> tuple[tuple[Sampled, ...], bool]:
    """``choices`` up to the one that ends the answer, and whether that completes a stop string."""
    has_stops = bool(sequence.request.params.stop)
    if len(choices) == 1 and not has_stops:
        return choices, False
    tokens = [choice.token for choice in choices]
    for count, token in enumerate(tokens, start=1):
        with sequence.supposing(tokens[: count - 1]):
            is_stopped = has_stops and stop_found(sequence, token)
        with sequence.supposing(tokens[:count]):
            if is_stopped or sequence.end_reason(stopped=False) is not None:
                return choices[:count], is_stopped
    return choices, False
