"""Who has been sent everything, says that it has nothing to do, and owes an answer, is lost; who
takes its time is not."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import pages_bytes, serving
from families import make_model
from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerLost
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.core.slices import LayerSlice
from glinthawk.engine.engine import Engine
from glinthawk.engine.node_opening import join_homes
from glinthawk.engine.pipeline import Pipeline
from glinthawk.engine.run import run_on
from glinthawk.engine.tier import Done, TierEvent
from glinthawk.launch.deployment import Processes
from glinthawk.launch.revival import Fate
from glinthawk.scheduler.commands import HomeJoined, HomeLost
from glinthawk.tier1.kv.home_factory import make_home
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier2.worker import Worker
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.control import (
    Failed,
    FromEngine,
    HomeAtNode,
    Loaded,
    LoadSlice,
    RunStep,
    SampledStep,
)
from glinthawk.wire.messages import VERSION, Attended, FromTier1, Message, Store, decode
from glinthawk.wire.server_channel import ServerChannel

_TIMEOUT_S = 0.6


@contextmanager
def _run_at(address: Address, loaded: LoadedModel, **settings: int) -> Iterator[Engine]:
    """The engine of a run with all KV at one worker, which may be silent for a short time only."""
    channels = [ClientChannel(address, silence_s=_TIMEOUT_S)]
    home = make_home("sequence", 1, channels, loaded.spec, loaded.model.device)
    try:
        home.open("float32")
        home.await_open(60)
        config = EngineConfig(model=loaded.spec.name, **settings)
        yield run_on(config, join_homes(config, loaded, [home])).engine
    finally:
        home.close()


def _requests(count: int, length: int) -> list[Request]:
    params = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
    return [Request(number, (5 + number, 9, 11), params, 0, length) for number in range(count)]


@pytest.mark.parametrize("forgotten", [1, 4])
def test_a_worker_that_forgets_an_answer_is_lost(tmp_path: Path, forgotten: int) -> None:
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path / "model", "llama"))))
    worker = Worker(pages_bytes(loaded, 16), lambda _: False)
    left = [forgotten]

    def answer(channel: ServerChannel, client: bytes, frames: list[memoryview]) -> None:
        said = worker.handle(client, frames)
        left[0] -= said is not None and isinstance(said[0], Attended)
        if said is not None and (left[0] or not isinstance(said[0], Attended)):
            channel.send(client, *said)

    with (
        serving(answer) as address,
        _run_at(address, loaded, batch_size=2, batches_in_flight=1) as engine,
        pytest.raises(WorkerLost, match=f"an answer of {address.endpoint} was lost"),
    ):
        list(engine.generate(_requests(2, length=9)))


def test_a_worker_that_takes_its_time_for_every_prompt_is_not(tmp_path: Path) -> None:
    """Much longer for all than silence may last, and one message is enough to be behind."""
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path / "model", "llama"))))
    worker = Worker(pages_bytes(loaded, 16), lambda _: False)

    def answer(channel: ServerChannel, client: bytes, frames: list[memoryview]) -> None:
        if isinstance(decode(frames[0], FromTier1), Store):
            threading.Event().wait(_TIMEOUT_S / 2)
        if (said := worker.handle(client, frames)) is not None:
            channel.send(client, *said)

    with (
        serving(answer, window=1) as address,
        _run_at(address, loaded, batch_size=1, batches_in_flight=4) as engine,
    ):
        assert len(list(engine.generate(_requests(4, length=2)))) == 4


def test_a_worker_that_forgets_to_open_a_session_is_lost(tmp_path: Path) -> None:
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path / "model", "llama"))))
    with serving(lambda *_: None) as address:
        channels = [ClientChannel(address, silence_s=_TIMEOUT_S)]
        home = make_home("sequence", 1, channels, loaded.spec, loaded.model.device)
        try:
            home.open("float32")
            with pytest.raises(WorkerLost, match=f"{address.endpoint} does not answer"):
                for _ in range(600):
                    assert not home.has_opened()
                    channels[0].wait(0.1)
        finally:
            home.close()


class _NoProcesses(Processes):
    """All nodes were started elsewhere."""

    def check(self) -> None:
        pass

    def revive(self) -> dict[Address, Address]:
        return {}

    def worked(self, _address: Address) -> None:
        pass

    def fates(self) -> dict[Address, Fate]:
        return {}


class _FakeNode:
    """Takes every step at once, but for the first, which it takes with ``first``; and loads at
    once, but for the first ``num_forgotten`` times."""

    def __init__(self, first: Callable[[Callable[[], bool]], None], num_forgotten: int = 0) -> None:
        self._first, self._num_forgotten = first, num_forgotten
        self.num_loads = self._num_runs = 0
        #: At which attempts to load it says that its worker is lost.
        self.fails: list[int] = []

    def answer(self, channel: ServerChannel, client: bytes, frames: list[memoryview]) -> None:
        message: Message = decode(frames[0], FromEngine)
        if isinstance(message, LoadSlice):
            self.num_loads += 1
            if self.num_loads <= self._num_forgotten:
                return
            if self.num_loads in self.fails:
                channel.send(client, Failed("WorkerLost", "its worker does not answer"))
                return
            channel.send(client, Loaded(512, 300, "float32", 4, (), 0.0))
            channel.send(client, HomeAtNode(1, 16, 32, 16))
        elif isinstance(message, RunStep):
            self._num_runs += 1
            sampled = SampledStep(message.step, [[7]] * len(message.prompts), [[None]], [])
            if self._num_runs > 1:
                channel.send(client, sampled)
            else:
                self._first(lambda: channel.send(client, sampled))


def _until(pipeline: Pipeline, kind: type[TierEvent]) -> TierEvent:
    """The next event, which is of this kind."""
    for _ in range(600):
        if events := pipeline.poll(0.1):
            (event,) = events
            assert isinstance(event, kind)
            return event
    pytest.fail(f"no {kind.__name__}")


def _step(number: int) -> Batch:
    request = Request(0, (5, 9, 11), SamplingParams(max_tokens=4), 0, 4)
    return Batch(number, (), (Span(TokenSequence(request, 0), 1, 0, 3, None),))


@contextmanager
def _pipeline(address: Address) -> Iterator[Pipeline]:
    config = EngineConfig(model="demo", worker_timeout=_TIMEOUT_S, wait_for_workers=3)
    load = LoadSlice(VERSION, config, LayerSlice(0, 2, 2), None)
    with Pipeline([(address, load)], None, _NoProcesses()) as pipeline:
        pipeline.open()
        yield pipeline


def _lose_a_step(pipeline: Pipeline) -> None:
    pipeline.start(_step(0))
    assert _until(pipeline, HomeLost) == HomeLost(1)
    pipeline.abort(0)
    pipeline.lose(1)
    assert _until(pipeline, HomeJoined) == HomeJoined(1, 16, 32, 16)


def test_a_node_that_forgets_a_step_is_lost_and_loads_again() -> None:
    fake = _FakeNode(lambda _: None)
    with serving(fake.answer) as address, _pipeline(address) as pipeline:
        _lose_a_step(pipeline)
        pipeline.start(_step(1))
        _until(pipeline, Done)
    assert fake.num_loads == 2


def test_a_node_that_takes_its_time_is_not() -> None:
    """Several times as long as silence may last, and without a word."""

    def think(answer: Callable[[], bool]) -> None:
        threading.Event().wait(4 * _TIMEOUT_S)
        answer()

    fake = _FakeNode(think)
    with serving(fake.answer) as address, _pipeline(address) as pipeline:
        pipeline.start(_step(0))
        _until(pipeline, Done)
    assert fake.num_loads == 1


def test_a_node_that_forgets_to_load_is_asked_again() -> None:
    fake = _FakeNode(lambda answer: None, num_forgotten=1)
    with serving(fake.answer) as address, _pipeline(address) as pipeline:
        assert pipeline.homes() == [HomeJoined(1, 16, 32, 16)]
    assert fake.num_loads == 2


def test_a_node_that_loses_its_workers_in_mid_run_is_waited_for() -> None:
    fake = _FakeNode(lambda answer: None)
    fake.fails = [2, 3]
    with serving(fake.answer) as address, _pipeline(address) as pipeline:
        _lose_a_step(pipeline)
    assert fake.num_loads == 4


def test_one_that_does_not_find_them_ends_the_run() -> None:
    fake = _FakeNode(lambda answer: None)
    fake.fails = list(range(1, 100))
    with (
        serving(fake.answer) as address,
        pytest.raises(WorkerLost, match=f"node 1 .*{address.endpoint}.*: its worker"),
        _pipeline(address),
    ):
        pass
    assert 1 < fake.num_loads < 100
