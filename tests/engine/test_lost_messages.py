"""Links that lose, repeat, hold back or copy what crosses them though they stay up: a run ends with
the right answers, or says what was lost. Engine to node, node to node, node to worker, and back."""

import logging
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.control import Failed, Follow, FromNode, Hidden
from glinthawk.wire.messages import Ask
from parcels import Deed, Judge, Parcel, relay
from pipeline_nodes import node, waiting_for

_log = logging.getLogger(__name__)

#: What a test may take at most, where seconds are expected.
_BOUND_S = 120
_TIMEOUT_S = 2.0
_DEEDS: tuple[Deed, ...] = ("swallow", "double", "delay", "cut", "copy")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[int, list[int]]:
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB", batch_size=4)) as run:
        return _answer(run)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the sockets of two nodes and two workers, which serve run after run."""
    folder = tmp_path_factory.mktemp("places")
    with ExitStack() as stack:
        for name in ("node1", "node2"):
            stack.enter_context(node(folder / name))
        for name in ("worker1", "worker2"):
            stack.enter_context(_worker(folder / name))
        for name in ("node1", "node2", "worker1", "worker2"):
            stack.enter_context(waiting_for(folder / name))
        yield folder


@contextmanager
def _worker(socket: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "glinthawk", "worker", "--quiet", "--threads", "1"]
    process = subprocess.Popen([*command, "--kv", "4MiB", "--listen", f"ipc://{socket}"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _requests() -> list[Request]:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    prompts = [tuple(range(3 + i, 9 + 2 * i)) for i in range(4)]
    return [Request(i, prompt, params, 0, 14 + 2 * i) for i, prompt in enumerate(prompts)]


def _answer(run: Run) -> dict[int, list[int]]:
    found = {sequence.request.id: sequence.output for sequence in run.engine.generate(_requests())}
    run.engine.scheduler.validate()
    return found


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Whoever waits longer than that is interrupted."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"nothing came of it in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _pipeline(
    model: Path, places: Path, folder: Path, judge: Judge, timeout_s: float = _TIMEOUT_S
) -> Iterator[Run]:
    """Two nodes with a worker each, every link behind a relay. One batch at a time, so that there
    is nothing behind a message that is lost which would show it."""
    with ExitStack() as stack:
        for name in ("node1", "node2", "worker1", "worker2"):
            stack.enter_context(relay(folder / name, places / name, judge))
        cluster = folder / "cluster.toml"
        cluster.write_text(
            "".join(
                f'[[nodes]]\naddress = "ipc://{folder}/node{i}"\n'
                f'workers = ["ipc://{folder}/worker{i}"]\ntier1_kv = "0"\n'
                for i in (1, 2)
            )
        )
        config = EngineConfig(
            model=str(model),
            cluster=str(cluster),
            batch_size=4,
            batches_in_flight=1,
            worker_timeout=timeout_s,
        )
        yield stack.enter_context(open_run(config))


def _tag(parcel: Parcel) -> Any:
    return msgspec.msgpack.decode(parcel.header)[1][0]


class _Once:
    """Does a deed to the ``number``-th message of a kind, wherever it passes."""

    def __init__(self, deed: Deed, tag: str, number: int) -> None:
        self._deed, self._tag, self._left = deed, tag, number
        self._lock = threading.Lock()
        self.done: list[Parcel] = []

    def __call__(self, parcel: Parcel) -> Deed:
        if _tag(parcel) != self._tag:
            return "pass"
        with self._lock:
            self._left -= 1
            if self._left:
                return "pass"
        self.done.append(parcel)
        return self._deed


#: Messages of each link and direction, and which of them: in mid-run where that is possible.
_KINDS = {
    "engine to node": ("runstep", 7),
    "node to engine": ("sampledstep", 3),
    "node to node": ("hidden", 3),
    "node to worker, attention": ("attend", 9),
    "node to worker, prompts": ("store", 2),
    "worker to node, attention": ("attended", 9),
    "worker to node, prompts": ("stored", 1),
    "the slice to load": ("loadslice", 2),
    "the slice is loaded": ("loaded", 1),
    "a home has joined": ("homeatnode", 2),
    "where hidden states come from": ("follow", 1),
    "what was used": ("used", 1),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_a_message_that_is_lost_costs_no_answer(
    model: Path, places: Path, expected: dict[int, list[int]], tmp_path: Path, kind: str
) -> None:
    judge = _Once("swallow", *_KINDS[kind])
    with _within(_BOUND_S), _pipeline(model, places, tmp_path, judge) as run:
        assert _answer(run) == expected
        run.stats()
        assert _answer(run) == expected
    assert judge.done


@pytest.mark.parametrize("deed", ["double", "copy"])
@pytest.mark.parametrize("kind", _KINDS)
def test_what_comes_twice_costs_nothing(
    model: Path,
    places: Path,
    expected: dict[int, list[int]],
    tmp_path: Path,
    kind: str,
    deed: Deed,
) -> None:
    """A message, or a whole connection: nothing is even computed again."""
    judge = _Once(deed, *_KINDS[kind])
    with (
        _within(_BOUND_S),
        _pipeline(model, places, tmp_path, judge, timeout_s=60) as run,
    ):
        assert _answer(run) == expected
        run.stats()
        assert _answer(run) == expected
        assert run.engine.scheduler.counts.repeated_tokens == 0
    assert judge.done


def test_hidden_states_from_elsewhere_are_not_taken(
    model: Path, places: Path, expected: dict[int, list[int]], tmp_path: Path
) -> None:
    """Of this run's steps, but from who is not the node before."""
    address = Address.parse(f"ipc://{places}/node2")
    with (
        _within(_BOUND_S),
        _pipeline(model, places, tmp_path, lambda _: "pass", timeout_s=60) as run,
        ClientChannel(address, hears=FromNode) as stranger,
    ):
        stranger.send(Follow("another run", 9))
        for step in range(100):
            stranger.send(Hidden(step), [bytes(256)])
        _await_refusal(stranger)
        assert _answer(run) == expected


def _await_refusal(client: ClientChannel) -> None:
    """Return once all that ``client`` has sent is heard: what is refused stands behind it."""
    client.send(Ask())
    while (received := client.receive()) is None:
        client.wait(1.0)
    assert isinstance(received[0], Failed)


def test_a_copy_that_is_heard_before_the_link_costs_nothing(
    model: Path, places: Path, expected: dict[int, list[int]], tmp_path: Path
) -> None:
    address = Address.parse(f"ipc://{places}/node2")
    with ClientChannel(address, hears=FromNode) as copy:
        followed = []

        def follow_first(parcel: Parcel) -> Deed:
            if _tag(parcel) == "follow":
                followed.append(parcel)
                copy.send(msgspec.msgpack.decode(parcel.header, type=tuple[int, Follow])[1])
                _await_refusal(copy)
            return "pass"

        with (
            _within(_BOUND_S),
            _pipeline(model, places, tmp_path, follow_first, timeout_s=60) as run,
        ):
            assert _answer(run) == expected
            assert run.engine.scheduler.counts.repeated_tokens == 0
        assert followed


class _NowAndThen:
    """Does something to a message in fifty, to so many at most."""

    def __init__(self, seed: int, most: int) -> None:
        self._seed, self._left = seed, most
        self._lock = threading.Lock()
        self.done: list[tuple[Deed, Parcel]] = []

    def __call__(self, parcel: Parcel) -> Deed:
        place = (parcel.link, parcel.connection, parcel.is_answer, parcel.number)
        dice = random.Random(f"{self._seed} {place}")
        deed = dice.choice(_DEEDS)
        with self._lock:
            if dice.random() > 0.02 or not self._left:
                return "pass"
            self._left -= 1
            self.done.append((deed, parcel))
        return deed


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_on_the_way(
    model: Path, places: Path, expected: dict[int, list[int]], tmp_path: Path, seed: int
) -> None:
    """The seed is the test's; what was done is shown if it fails."""
    judge = _NowAndThen(seed, most=12)
    with _within(_BOUND_S), _telling(judge), _pipeline(model, places, tmp_path, judge) as run:
        for _ in range(3):
            assert _answer(run) == expected
    assert judge.done


@contextmanager
def _telling(judge: _NowAndThen) -> Iterator[None]:
    """A run may end with an error that names what happened."""
    try:
        yield
    except WorkerError as error:
        _log.info("%s, after %s", error, judge.done)
        assert any(word in str(error) for word in ("lost", "broke", "another run")), judge.done
    except BaseException:
        _log.info("%s", judge.done)
        raise


_LAYOUTS: dict[str, dict[str, Any]] = {
    "workers": {},
    "heads": {"split_attention": "heads"},
    "tokens": {"split_attention": "tokens"},
    "fetch": {"kv_placement": "fetch"},
}


@contextmanager
def _workers(
    model: Path, places: Path, folder: Path, judge: Judge, settings: dict[str, Any]
) -> Iterator[Run]:
    """Two workers of a Tier 1 in this process."""
    names = ("worker1", "worker2")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(relay(folder / name, places / name, judge))
        config = EngineConfig(
            model=str(model),
            tier2=tuple(f"ipc://{folder}/{name}" for name in names),
            tier1_kv="0",
            batch_size=4,
            batches_in_flight=1,
            worker_timeout=_TIMEOUT_S,
            **settings,
        )
        yield stack.enter_context(open_run(config))


_PARCELS = {
    "workers": ("open", "opened", "begin", "attend", "store", "attended", "stored", "releasekv"),
    "heads": ("open", "attend", "attended", "stored"),
    "tokens": ("beginpart", "attend", "attended", "stored"),
    "fetch": ("fetch", "fetched"),
}


@pytest.mark.parametrize(
    ("layout", "tag"), [(layout, tag) for layout, tags in _PARCELS.items() for tag in tags]
)
def test_one_parcel_between_tier_1_and_a_worker(
    model: Path,
    places: Path,
    expected: dict[int, list[int]],
    tmp_path: Path,
    layout: str,
    tag: str,
) -> None:
    judge = _Once("swallow", tag, 2)
    with _within(_BOUND_S), _workers(model, places, tmp_path, judge, _LAYOUTS[layout]) as run:
        assert _answer(run) == expected
        run.stats()
        assert _answer(run) == expected
    assert judge.done


@pytest.mark.parametrize("tag", ["open", "opened"])
@pytest.mark.parametrize("layout", ["workers", "tokens"])
def test_a_connection_that_breaks_at_the_start_is_made_again(
    model: Path,
    places: Path,
    expected: dict[int, list[int]],
    tmp_path: Path,
    layout: str,
    tag: str,
) -> None:
    judge = _Once("cut", tag, 2)
    with _within(_BOUND_S), _workers(model, places, tmp_path, judge, _LAYOUTS[layout]) as run:
        assert _answer(run) == expected
    assert judge.done


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_whatever_happens_between_tier_1_and_its_workers(
    model: Path,
    places: Path,
    expected: dict[int, list[int]],
    tmp_path: Path,
    layout: str,
    seed: int,
) -> None:
    judge, settings = _NowAndThen(seed, most=12), _LAYOUTS[layout]
    with (
        _within(_BOUND_S),
        _telling(judge),
        _workers(model, places, tmp_path, judge, settings) as run,
    ):
        for _ in range(3):
            assert _answer(run) == expected
    assert judge.done
