"""Askers that share an engine get what they would get alone, and are nothing to one another."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError, WorkerLost
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.engine.run import Run, open_run
from glinthawk.engine.shared_engine import URGENT, SharedEngine

_WAIT_S = 120
_PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def _open(model: Path, kv: str = "128KiB") -> AbstractContextManager[Run]:
    return open_run(EngineConfig(model=str(model), tier1_kv=kv, batch_size=4))


def _requests(first: int, count: int, is_streamed: bool = False) -> list[Request]:
    prompts = [tuple(range(first + i, first + i + 6 + 3 * i)) for i in range(count)]
    return [
        Request(i, prompt, _PARAMS, 0, 12 - i % 4, is_streamed=is_streamed)
        for i, prompt in enumerate(prompts)
    ]


@dataclass(eq=False)
class _Asker:
    """Keeps what it is told. ``fails`` names the method that raises."""

    asked: list[Request]
    fails: str = ""
    answers: dict[int, list[int]] = field(default_factory=dict)
    #: Lengths of each sequence's output, each time it was seen.
    seen: dict[int, list[int]] = field(default_factory=dict)
    ends: list[Exception | None] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    #: Set when it was given something for the first time.
    begun: threading.Event = field(default_factory=threading.Event)

    def _do(self, what: str) -> None:
        if self.fails == what:
            raise ZeroDivisionError(what)

    def requests(self) -> Iterator[Request | None]:
        self._do("requests")
        for number, request in enumerate(self.asked):
            if number == 2:
                self._do("a later request")
            yield request

    def stop_found(self, sequence: Sequence, token: int) -> bool:
        self._do("stop_found")
        return False

    def take(self, sequence: Sequence) -> None:
        self.begun.set()
        self._do("take")
        self.seen.setdefault(sequence.request.id, []).append(len(sequence.output))
        if sequence.finish_reason is not None:
            self.answers[sequence.request.id] = list(sequence.output)

    def tick(self) -> None:
        self._do("tick")

    def end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.over.set()
        self._do("end")

    def wait(self) -> "Exception | None":
        assert self.over.wait(_WAIT_S)
        (error,) = self.ends
        return error


def _alone(model: Path, requests: list[Request]) -> dict[int, list[int]]:
    with _open(model) as run:
        return {s.request.id: s.output for s in run.engine.generate(requests)}


def _check_left_over(engine: SharedEngine) -> None:
    """Looked at on the engine's thread: nothing is under way, no page is used."""
    said: SimpleQueue[tuple[bool, int]] = SimpleQueue()
    scheduler = engine.run.engine.scheduler

    def look() -> None:
        scheduler.validate()
        pages = sum(scheduler.num_pages_used(home) for home in scheduler.homes)
        said.put((scheduler.is_idle, pages))

    engine._calls.put(look)
    assert said.get(timeout=_WAIT_S) == (True, 0)
    assert engine.run.tier1.num_running == 0


def test_several_askers_get_what_each_gets_alone(model: Path) -> None:
    askers = [_Asker(_requests(first, 7)) for first in (3, 50, 90)]
    with SharedEngine(_open(model)) as engine:
        for number, asker in enumerate(askers):
            engine.ask(asker, priority=number)
        assert [asker.wait() for asker in askers] == [None] * 3
        late = _Asker(_requests(3, 7))
        engine.ask(late)
        assert late.wait() is None
        _check_left_over(engine)
    for asker in (*askers, late):
        assert asker.answers == _alone(model, asker.asked)


def test_who_asks_nothing_is_done_at_once(model: Path) -> None:
    with SharedEngine(_open(model)) as engine:
        asker = _Asker([])
        engine.ask(asker)
        assert asker.wait() is None


@pytest.mark.parametrize("fails", ["requests", "a later request", "take", "tick", "end"])
def test_an_asker_that_fails_ends_alone(model: Path, fails: str) -> None:
    wrong, right = _Asker(_requests(50, 7), fails), _Asker(_requests(3, 7))
    with SharedEngine(_open(model)) as engine:
        engine.ask(wrong)
        engine.ask(right)
        assert right.wait() is None
        error = wrong.wait()
        assert (str(error) == fails) == (fails != "end")
        _check_left_over(engine)
    assert right.answers == _alone(model, right.asked)


def test_a_stop_string_that_cannot_be_sought_ends_its_asker_alone(model: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, stop="x", ignore_eos=True)
    wrong = _Asker([Request(0, (5, 6, 7), params, 0, 12)], "stop_found")
    right = _Asker(_requests(3, 7))
    with SharedEngine(_open(model)) as engine:
        engine.ask(wrong)
        engine.ask(right)
        assert (right.wait(), str(wrong.wait())) == (None, "stop_found")
        _check_left_over(engine)


def test_who_is_withdrawn_leaves_nothing_and_hears_nothing(model: Path) -> None:
    gone = _Asker(_requests(50, 40, is_streamed=True))
    stays = _Asker(_requests(3, 7))
    with SharedEngine(_open(model)) as engine:
        number = engine.ask(gone)
        engine.ask(stays)
        assert gone.begun.wait(_WAIT_S)
        engine.withdraw(number)
        engine.withdraw(number)
        engine.withdraw(12345)
        assert stays.wait() is None
        _check_left_over(engine)
    assert not gone.ends
    assert len(gone.answers) < 40
    assert stays.answers == _alone(model, stays.asked)


def test_a_streamed_answer_is_seen_after_each_step(model: Path) -> None:
    asker = _Asker(_requests(3, 5, is_streamed=True))
    with SharedEngine(_open(model)) as engine:
        engine.ask(asker)
        assert asker.wait() is None
    for request in asker.asked:
        assert asker.seen[request.id] == list(range(1, request.max_tokens + 1))
    plain = [Request(r.id, r.prompt, r.params, 0, r.max_tokens) for r in asker.asked]
    assert asker.answers == _alone(model, plain)


def test_the_urgent_are_answered_before_what_was_there_earlier(model: Path) -> None:
    """Though so much was read ahead that no more than that ever is."""
    job = _Asker(_requests(3, 4) * 500)
    with SharedEngine(_open(model)) as engine:
        engine.ask(job, priority=URGENT + 1)
        assert job.begun.wait(_WAIT_S)
        urgent = _Asker(_requests(60, 1))
        engine.ask(urgent)
        assert urgent.wait() is None
        assert not job.over.is_set()
    assert isinstance(job.wait(), UsageError)


def test_equal_ones_take_turns(model: Path) -> None:
    first, second = (_Asker(_requests(3, 1) * 300) for _ in range(2))
    order: list[_Asker] = []
    first.take = lambda _: order.append(first)  # type: ignore[method-assign]
    second.take = lambda _: order.append(second)  # type: ignore[method-assign]
    with SharedEngine(_open(model)) as engine:
        engine.ask(first, priority=7)
        engine.ask(second, priority=7)
        assert (first.wait(), second.wait()) == (None, None)
    # Both began before much was read of either, and neither had to wait for the other's end.
    assert second in order[:300]
    assert first in order[300:]


def test_what_ends_the_run_ends_all_who_ask_and_who_come_later(model: Path) -> None:
    asker = _Asker(_requests(3, 40, is_streamed=True))
    engine = SharedEngine(_open(model))
    reason = WorkerLost("no worker has come back")

    def fail() -> None:
        raise reason

    engine.ask(asker)
    assert asker.begun.wait(_WAIT_S)
    engine._calls.put(fail)
    assert asker.wait() is reason
    with pytest.raises(WorkerLost):
        engine.ask(_Asker([]))
    assert engine.failure is reason
    engine.close()


def test_an_engine_that_does_not_open_says_why() -> None:
    with pytest.raises(UsageError, match="too small"):
        SharedEngine(_refuse())


@contextmanager
def _refuse() -> Iterator[Run]:
    raise UsageError("too small")
    yield


def test_closed_is_closed(model: Path) -> None:
    asker = _Asker(_requests(3, 40))
    engine = SharedEngine(_open(model))
    engine.ask(asker)
    engine.close()
    assert isinstance(asker.wait(), UsageError)
    with pytest.raises(UsageError, match="closed"):
        engine.ask(_Asker([]))
    engine.close()
    assert not [t for t in threading.enumerate() if t.name == "glinthawk-engine"]
