"""Whatever a worker answers: Tier 1 goes on, or ends with an error that names the worker."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import get_args

import pytest
import zmq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from cluster import pages_bytes, serving
from families import make_model
from glinthawk.core.config import PAGE_TOKENS, EngineConfig, KvPlacement
from glinthawk.core.errors import UsageError, WireError, WorkerError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.node_opening import join_homes
from glinthawk.engine.run import run_on
from glinthawk.tier1.kv.home_factory import make_home
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier2.backends.fetched_pages import FetchedPages
from glinthawk.tier2.worker import Worker
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.credit import Credit
from glinthawk.wire.messages import (
    Attended,
    Fault,
    Fetched,
    FromWorker,
    Opened,
    Stats,
    Stored,
    encode,
)
from glinthawk.wire.server_channel import ServerChannel
from message_values import values

QUIET = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
_NEW = 4
_ROWS, _HEADS, _HEAD_BYTES = 3, 4, 64
#: Steps and layers that there are, and some that never are.
_NUMBERS = st.sampled_from([*range(7), 32, -1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63)])
_FLOATS = st.sampled_from([0.0, -1.0, 1e300, float("nan"), float("inf")])
_WILD = st.one_of(
    [values(inspect.type_info(kind), _NUMBERS, _FLOATS) for kind in get_args(FromWorker)]
)
_SIZES = st.sampled_from([0, 1, *(_HEADS * _HEAD_BYTES * rows for rows in range(1, _ROWS + 1))])
_RAW = st.tuples(_WILD, st.lists(_SIZES.map(bytes), max_size=3)).map(
    lambda said: [encode(said[0]), *said[1]]
) | st.lists(st.binary(max_size=40), min_size=1, max_size=4)
#: What is said before each of the true answers.
_STORM = st.lists(st.lists(_RAW, max_size=2), max_size=12)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = make_model(tmp_path_factory.mktemp("model"), "llama")
    return load_model(EngineConfig(model=str(path)))


@contextmanager
def liar(loaded: LoadedModel, storm: list[list[list[bytes]]]) -> Iterator[Address]:
    """A worker that answers as it should, and says something else before each answer."""
    worker, bursts = Worker(pages_bytes(loaded, 16), lambda _: False), iter(storm)

    def answer(channel: ServerChannel, client: bytes, frames: list[memoryview]) -> None:
        said = worker.handle(client, frames)
        if said is not None:
            with suppress(zmq.ZMQError):  # the client may have had enough
                for lie in next(bursts, []):
                    channel.socket.send_multipart([client, *lie])
            channel.send(client, *said)

    with serving(answer) as address:
        yield address


def generate(
    loaded: LoadedModel,
    address: Address,
    in_flight: int = 1,
    placement: KvPlacement = "near",
) -> dict[int, list[int]]:
    """Three answers by way of the worker."""
    return generate_at(loaded, [address], in_flight, placement)


def generate_at(
    loaded: LoadedModel,
    addresses: list[Address],
    in_flight: int = 1,
    placement: KvPlacement = "near",
) -> dict[int, list[int]]:
    """Three answers by way of all these workers."""
    spec = loaded.spec
    pages = FetchedPages(spec.layers, "float32", 1) if placement == "fetch" else None
    with ExitStack() as stack:
        homes = []
        for number, address in enumerate(addresses, start=1):
            channels = [ClientChannel(address)]
            home = make_home(
                "sequence", number, channels, spec, loaded.model.device, attention=pages
            )
            stack.callback(home.close)
            home.open("float32")
            home.await_open(60)
            homes.append(home)
        config = EngineConfig(model=spec.name, batch_size=_ROWS, batches_in_flight=in_flight)
        run = run_on(config, join_homes(config, loaded, homes))
        params = SamplingParams(temperature=0, max_tokens=_NEW, ignore_eos=True)
        requests = [Request(i, (5 + i, 9, 11), params, 0, _NEW) for i in range(_ROWS)]
        answers = {s.request.id: s.output for s in run.engine.generate(requests)}
        run.stats()
        return answers


@pytest.mark.parametrize("placement", ["near", "fetch"])
def test_a_worker_that_does_not_lie_is_believed(
    loaded: LoadedModel, placement: KvPlacement
) -> None:
    with liar(loaded, []) as address:
        answers = generate(loaded, address, placement=placement)
    assert [len(output) for output in answers.values()] == [_NEW] * _ROWS


@settings(QUIET, max_examples=150)
@given(storm=_STORM, placement=st.sampled_from(["near", "fetch"]))
@example(storm=[[], [], [[encode(Attended(0, 2**40, 1)), bytes(256)]]], placement="near")
@example(storm=[[], [[encode(Attended(0, 0, 1)), bytes(256)]]], placement="near")
@example(storm=[[], [], [[encode(Stored(1))]]], placement="near")
@example(storm=[[[encode(Opened(5, 32, 2**62, 5))]]], placement="near")
@example(storm=[[], [], [[encode(Fetched(1, 0, 1)), bytes(256), bytes(12)]]], placement="fetch")
def test_no_answer_raises_anything_but_an_error_with_a_next_step(
    loaded: LoadedModel, storm: list[list[list[bytes]]], placement: KvPlacement
) -> None:
    with liar(loaded, storm) as address:
        try:
            answers = generate(loaded, address, 2, placement)
        except (WorkerError, UsageError):  # usage: of a worker that claims to have no room
            return
    assert sorted(answers) == [0, 1, 2]


#: Before which answer (Opened, then the prompts' Stored, then an Attended a layer), what, and why
#: it is not believed.
_LIES: dict[str, tuple[int, list[bytes], str]] = {
    "a layer that is not there": (2, [encode(Attended(1, 99, 1)), bytes(_ROWS * 256)], "asked"),
    "a layer below zero": (2, [encode(Attended(1, -1, 1)), bytes(_ROWS * 256)], "asked"),
    "another layer": (2, [encode(Attended(1, 1, 1)), bytes(_ROWS * 256)], "asked"),
    "an output of prompts": (1, [encode(Attended(0, 0, 1))], "asked"),
    "an output too short": (2, [encode(Attended(1, 0, 1)), bytes(7)], "wrong size"),
    "no output": (2, [encode(Attended(1, 0, 1))], "wrong size"),
    "two outputs": (2, [encode(Attended(1, 0, 1)), *[bytes(_ROWS * 256)] * 2], "wrong size"),
    "a step without prompts as stored": (2, [encode(Stored(1))], "asked"),
    "a time below zero": (2, [encode(Attended(1, 0, -1)), bytes(_ROWS * 256)], "not a message"),
    "other pages": (0, [encode(Opened(64, 16, 1, 64))], "pages of 16 tokens"),
    "no pages": (0, [encode(Opened(0, 32, 1, 1))], "not a message"),
    "stats beyond belief": (0, [encode(Stats(float("nan"), 5))], "not a message"),
    "pages in place of an output": (2, [encode(Fetched(1, 0, 1)), bytes(9), bytes(4)], "asked"),
    "stats that nobody wants": (0, [encode(Stats(1.0, 5))], "unexpected"),
    "garbage": (2, [b"garbage"], "not a message"),
    "no header": (2, [b""], "not a message"),
}


@pytest.mark.parametrize("kind", list(_LIES))
def test_a_lie_is_an_error_that_says_why(loaded: LoadedModel, kind: str) -> None:
    when, lie, reason = _LIES[kind]
    storm: list[list[list[bytes]]] = [*([] for _ in range(when)), [lie]]
    with liar(loaded, storm) as address, pytest.raises(WireError, match=reason):
        generate(loaded, address)


#: Of a page of the model's KV in one layer, on which each of the three rows' sequences fits.
_UNIT = PAGE_TOKENS * 2 * 2 * 16 * 4


def _places(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)


#: The same for Fetched.
_PAGE_LIES: dict[str, tuple[int, list[bytes], str]] = {
    "an output in place of pages": (2, [encode(Attended(1, 0, 1)), bytes(768)], "asked"),
    "a layer that is not there": (2, [encode(Fetched(1, 99, 1)), bytes(3), bytes(3)], "asked"),
    "another layer": (2, [encode(Fetched(1, 1, 1)), bytes(3 * _UNIT), _places(0, 1, 2)], "asked"),
    "pages for prompts": (1, [encode(Fetched(0, 0, 1)), bytes(_UNIT), _places(0)], "asked"),
    "no frames": (2, [encode(Fetched(1, 0, 1))], "0 frames"),
    "no places": (2, [encode(Fetched(1, 0, 1)), bytes(3 * _UNIT)], "1 frames"),
    "empty frames": (2, [encode(Fetched(1, 0, 1)), b"", b""], "0 bytes of places"),
    "a place too few": (
        2,
        [encode(Fetched(1, 0, 1)), bytes(3 * _UNIT), _places(0, 1)],
        "8 bytes of places",
    ),
    "a page too few": (
        2,
        [encode(Fetched(1, 0, 1)), bytes(2 * _UNIT), _places(0, 1, 2)],
        "bytes of pages",
    ),
    "a byte too many": (
        2,
        [encode(Fetched(1, 0, 1)), bytes(3 * _UNIT + 1), _places(0, 1, 2)],
        "bytes of pages",
    ),
    "a place below zero": (
        2,
        [encode(Fetched(1, 0, 1)), bytes(3 * _UNIT), _places(0, -1, 2)],
        "page -1",
    ),
    "no place but those": (2, [encode(Fetched(1, 0, 1)), b"", _places(-1, -1, -1)], "pages"),
    "a place beyond all": (
        2,
        [encode(Fetched(1, 0, 1)), bytes(3 * _UNIT), _places(0, 1, 2**31 - 1)],
        "bytes of pages",
    ),
}


@pytest.mark.parametrize("kind", list(_PAGE_LIES))
def test_a_lie_about_pages_is_an_error_that_says_why(loaded: LoadedModel, kind: str) -> None:
    when, lie, reason = _PAGE_LIES[kind]
    storm: list[list[list[bytes]]] = [*([] for _ in range(when)), [lie]]
    with liar(loaded, storm) as address, pytest.raises(WireError, match=reason) as caught:
        generate(loaded, address, placement="fetch")
    assert caught.value.home == 1


def test_pages_that_come_twice_are_an_error(loaded: LoadedModel) -> None:
    lie = [encode(Fetched(1, 0, 1)), bytes(3 * _UNIT), _places(0, 1, 2)]
    with liar(loaded, [[], [], [lie, lie]]) as address, pytest.raises(WireError, match="asked"):
        generate(loaded, address, placement="fetch")


def test_an_answer_that_comes_twice_is_an_error(loaded: LoadedModel) -> None:
    """It would be taken for the output of a layer that is under way at home."""
    lie = [encode(Attended(1, 0, 1)), bytes(_ROWS * 256)]
    with liar(loaded, [[], [], [lie, lie]]) as address, pytest.raises(WireError, match="asked"):
        generate(loaded, address)


@contextmanager
def generous(loaded: LoadedModel) -> Iterator[Address]:
    """A worker that says to have taken more than there is, with its first output."""
    worker = Worker(pages_bytes(loaded, 16), lambda _: False)

    def answer(channel: ServerChannel, client: bytes, frames: list[memoryview]) -> None:
        said = worker.handle(client, frames)
        if said is not None and isinstance(said[0], Attended):
            lie = channel._peer(client).tally.mark(Credit(1 << 40, 1 << 20))
            channel.socket.send_multipart([client, lie])
        if said is not None:
            channel.send(client, *said)

    with serving(answer) as address:
        yield address


def test_a_credit_for_what_was_not_sent_is_an_error(loaded: LoadedModel) -> None:
    with generous(loaded) as address, pytest.raises(WireError, match="was not sent") as caught:
        generate(loaded, address)
    assert caught.value.home == 1
    assert address.endpoint in str(caught.value)


def test_it_costs_no_other_worker_anything(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor an answer; the one that lies takes no part any more."""
    with liar(loaded, []) as honest:
        expected = generate(loaded, honest)
    with liar(loaded, []) as honest, generous(loaded) as other:
        assert generate_at(loaded, [honest, other]) == expected
        assert f"{other.endpoint} counts what was not sent" in caplog.text


def test_what_a_worker_says_is_fit_for_a_terminal(loaded: LoadedModel) -> None:
    lie = [encode(Fault("\x1b[2J\nrun rm -rf" + "!" * 100_000))]
    with liar(loaded, [[lie]]) as address, pytest.raises(WorkerError) as caught:
        generate(loaded, address)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
