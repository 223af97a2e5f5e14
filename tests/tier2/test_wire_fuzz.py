"""Whatever is said to a worker: it lives, it takes no memory for it, and others are not disturbed.

Messages are made from their types: wild numbers in messages of the right form, and frames that are
cut, filled up, flipped, repeated and put into another order. An honest client's conversation goes
on between them, and its answers must be the bytes of an undisturbed one.
"""

import itertools
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from cluster import IDENTITY, worker_thread
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.worker import Worker
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Attend,
    Begin,
    Bye,
    Fault,
    Fetch,
    FromTier1,
    FromWorker,
    Open,
    Ping,
    ReleaseKV,
    Spans,
    Store,
    decode,
    encode,
)
from honest import LAYERS, PAGES, Heard, answers, conversation
from message_values import values
from worker_talk import NONE, Talk

QUIET = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
_HUGE = [2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**31), -(2**63)]
#: Numbers that mean something in the honest conversation, and some that never do.
NUMBERS = st.sampled_from([*range(10), 31, 32, 33, 767, 768, 769, *_HUGE])
#: Numbers that name nothing of the honest one's.
OTHERS = st.sampled_from([*range(100, 110), *_HUGE])
FLOATS = st.floats() | st.sampled_from([0.0, -1.0, 1e308, 0.4])
TEXTS = st.sampled_from(["float32", "bfloat16", "float16", "int8", "", "float64", "load"])


def wild(kind: Any, numbers: st.SearchStrategy[int] = NUMBERS) -> st.SearchStrategy[Any]:
    """Messages of a kind with any numbers."""
    return values(inspect.type_info(kind), numbers, FLOATS, TEXTS)


#: Frames of sizes that fit somewhere, and of sizes that fit nowhere.
FRAMES = st.lists(
    st.sampled_from([0, 1, 63, 64, 192, 256, 384, 1088, 4096]).map(lambda size: b"\x7f" * size),
    max_size=5,
)
_SAID = [[encode(message), *frames] for message, frames in conversation()]


@st.composite
def mangled(draw: st.DrawFn) -> list[bytes]:
    """An honest message that something has happened to."""
    frames = list(draw(st.sampled_from(_SAID)))
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, max(0, len(frames) - 1)))
        frame = bytearray(frames[index]) if frames else bytearray()
        where = draw(st.integers(0, max(0, len(frame) - 1)))
        match draw(st.sampled_from(["cut", "fill", "flip", "drop", "twice", "turn"])):
            case "cut":
                frames[index : index + 1] = [bytes(frame[:where])]
            case "fill":
                frames[index : index + 1] = [bytes(frame) + bytes(draw(st.integers(1, 9000)))]
            case "flip" if frame:
                frame[where] ^= draw(st.integers(1, 255))
                frames[index] = bytes(frame)
            case "drop":
                del frames[index : index + 1]
            case "twice":
                frames.insert(index, bytes(frame))
            case "turn":
                frames.reverse()
    return frames


STRUCTURED = st.one_of([wild(kind) for kind in get_args(FromTier1)])
RAW = st.one_of(
    st.tuples(STRUCTURED, FRAMES).map(lambda said: [encode(said[0]), *said[1]]),
    mangled(),
    st.lists(st.binary(max_size=100), max_size=6),
)
#: What a stranger says before each of the honest one's messages.
STORM = st.lists(st.lists(RAW, max_size=4), min_size=1, max_size=20)


def _talk() -> Talk:
    talk = Talk(LAYERS, pages=PAGES)
    talk.present = {b"first"}
    return talk


def _ask(talk: Talk) -> Any:
    def ask(message: FromTier1, frames: list[bytes]) -> tuple[FromWorker, list[bytes]] | None:
        answer = talk.say(message, *frames)
        return None if answer is None else (answer[0], [bytes(frame) for frame in answer[1]])

    return ask


@cache
def undisturbed() -> list[Heard | None]:
    """What the honest client hears when it is alone."""
    return answers(_ask(_talk()))


def test_an_undisturbed_conversation_has_answers() -> None:
    said = [answer for answer in undisturbed() if answer is not None]
    assert not [answer for answer, _ in said if isinstance(answer, Fault)]
    assert len({parts[0] for _, parts in said if parts}) == 8


@contextmanager
def takes_little_memory(num_bytes: int = 64 << 20) -> Iterator[None]:
    """Neither Python's memory nor the process's grows by more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < before + num_bytes


@settings(QUIET, max_examples=150)
@given(STORM)
def test_a_stranger_gets_faults_and_disturbs_nobody(storm: list[list[list[bytes]]]) -> None:
    talk = _talk()
    bursts = itertools.chain([[]], storm)  # before the session there is nobody to disturb

    def disturb() -> None:
        for frames in next(bursts, []):
            answer = talk.say_raw(*frames, client=b"second")
            assert answer is not None
            assert isinstance(answer[0], Fault)
            assert not answer[1]

    assert answers(_ask(talk), disturb) == undisturbed()


#: Everything but what ends or begins the session, about other steps and sequences than its own.
_BESIDE = st.one_of([wild(kind, OTHERS) for kind in get_args(FromTier1) if kind not in (Open, Bye)])


@st.composite
def plausible_begins(draw: st.DrawFn) -> Begin:
    """Steps that might be: few sequences, short spans, forks of the honest ones."""
    ids = draw(st.lists(st.integers(100, 105), max_size=3))
    starts = [draw(st.sampled_from([0, 0, 1, 3, 31, 32])) for _ in ids]
    lengths = [draw(st.sampled_from([1, 1, 2, 40, 700, 2**31 - 1])) for _ in ids]
    forks = st.tuples(
        st.sampled_from([7, 8, 9, 100, 101]), st.integers(100, 105), st.integers(0, 9)
    )
    columns = Spans(ids, starts, lengths)
    spans = (columns, NONE) if draw(st.booleans()) else (NONE, columns)
    return Begin(draw(st.integers(100, 105)), *spans, draw(st.lists(forks, max_size=2)))


@st.composite
def plausible_steps(draw: st.DrawFn) -> list[tuple[Any, list[bytes]]]:
    """A step that might be, its parcels, in whatever order, and perhaps its end."""
    begin = draw(plausible_begins())
    rows = [min(sum(spans.lengths), 800) for spans in (begin.extends, begin.prompts)]
    steps: list[tuple[Any, list[bytes]]] = [(begin, [])]
    for layer in draw(st.lists(st.integers(0, len(LAYERS) - 1), max_size=3)):
        q, k, v = (bytes(rows[0] * size) for size in _ROW_BYTES)
        attend = (Attend(begin.step, layer), [q, k, v])
        steps.append(draw(st.sampled_from([attend, (Fetch(begin.step, layer), [k, v])])))
        steps.append((Store(begin.step, layer), [bytes(rows[1] * size) for size in _ROW_BYTES[1:]]))
    end = draw(st.sampled_from([Abandon(begin.step), ReleaseKV(begin.extends.sequences), None]))
    return [*steps, (end, [])] if end is not None else steps


#: Of one row's q, k and v.
_ROW_BYTES = (4 * 8 * 4, 2 * 8 * 4, 2 * 16 * 4)
_BESIDES = st.tuples(_BESIDE | plausible_begins(), FRAMES).map(lambda said: [said])


@settings(QUIET, max_examples=200)
@given(st.lists(st.lists(_BESIDES | plausible_steps(), max_size=4), max_size=14))
def test_wild_messages_of_a_client_disturb_none_of_its_other_sequences(
    storm: list[list[list[tuple[Any, list[bytes]]]]],
) -> None:
    talk = _talk()
    bursts = itertools.chain([[], []], storm)  # the session is open and its prompts have pages

    def disturb() -> None:
        for message, frames in itertools.chain(*next(bursts, [])):
            before = _pages(talk)
            answer = talk.say(message, *frames)
            if answer is not None and isinstance(answer[0], Fault):
                assert _pages(talk) == before, "what is refused changes nothing"

    assert answers(_ask(talk), disturb) == undisturbed()


def _pages(talk: Talk) -> tuple[int, dict[int, list[int]], dict[int, int]]:
    """Who holds which pages and how many tokens; the sums hold."""
    assert talk.worker._session is not None
    table = talk.worker._session.cache.pages
    table._pages.validate()
    held = {sequence: pages.copy() for sequence, pages in table._pages.held.items()}
    return table.num_used, held, table._tokens.copy()


@settings(QUIET, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 40), max_size=4), min_size=4, max_size=14))
def test_parcels_that_come_again_change_nothing(storm: list[list[int]]) -> None:
    """The same bytes at the same place, or a Fault; the last layer ends a step for good."""
    talk, said = _talk(), []
    bursts = iter(storm)

    def ask(message: FromTier1, frames: list[bytes]) -> Any:
        if isinstance(message, Attend | Store):
            said.append((message, frames))
        return _ask(talk)(message, frames)

    def disturb() -> None:
        for back in next(bursts, []):
            for message, frames in said[-back:][:1]:
                talk.say(message, *frames)

    assert answers(ask, disturb) == undisturbed()


#: Opens of which some can be: one layer or two, mostly of sizes that kernels take.
_OPENS = st.builds(
    Open,
    st.just(VERSION),
    st.lists(
        st.builds(
            AttentionLayer,
            num_heads=st.sampled_from([1, 2, 4, 65_536]),
            num_kv_heads=st.sampled_from([1, 1, 2, 65_536]),
            head_dim=st.sampled_from([1, 6, 8, 16, 65_536]),
            value_dim=st.sampled_from([1, 6, 8, 16, 65_536]),
            scaling=FLOATS,
            window=st.none() | st.sampled_from([0, 1, 5, *_HUGE]),
            softcap=st.none() | FLOATS,
            sinks=st.none() | st.lists(FLOATS, max_size=4).map(tuple),
        ),
        max_size=2,
    ),
    TEXTS,
    TEXTS,
)


@settings(QUIET, max_examples=400)
@given(st.lists(st.tuples(STRUCTURED | _OPENS | plausible_begins(), FRAMES), max_size=30))
def test_wild_numbers_take_no_memory(storm: list[tuple[Any, list[bytes]]]) -> None:
    """With a KV memory that exists, over any layers that fit in it."""
    talk = _talk()
    with takes_little_memory():
        talk.open()
        for message, frames in storm:
            talk.say(message, *frames)
        talk.open()
        assert talk.prefill(0, 7, 5, seed=1) is not None


def test_steps_do_not_pile_up() -> None:
    """A sequence is in one step at a time, and there are no more sequences than pages."""
    talk = _talk()
    talk.open()
    talk.prefill(0, 7, PAGE_TOKENS, seed=1)
    begun = 0
    for step in range(1, 500):
        fork = Begin(step, NONE, NONE, [(7, 1000 + step, 5)])
        assert "not in the step" in talk.fault(fork).text
        row = Begin(step, Spans([2000 + step], [5], [1]), NONE, [(7, 2000 + step, 5)])
        begun += talk.say(row) is None
    assert begun == PAGES - 1
    assert "is in step" in talk.fault(Begin(600, Spans([2001], [5], [1]), NONE)).text


def test_pages_do_not_change_hands_in_a_step() -> None:
    """Whoever may still write to a page holds it."""
    talk = _talk()
    talk.open()
    talk.prefill(0, 7, 5, seed=1)
    expected = talk.decode(1, 7, 5, seed=2)
    assert talk.say(Begin(2, Spans([7], [5], [1]), NONE)) is None
    assert "step 2" in talk.fault(ReleaseKV([3, 7])).text
    talk.prefill(3, 8, 20 * PAGE_TOKENS, seed=3)  # takes whatever is free
    for layer, before in enumerate(expected):
        answer = talk.say(Attend(2, layer), *talk.frames(layer, 2, 1))
        assert (talk.output(layer, answer) == before).all()
    assert talk.say(ReleaseKV([7])) is None


def test_an_abandoned_step_frees_its_sequences() -> None:
    talk = _talk()
    talk.open()
    talk.prefill(0, 7, 5, seed=1)
    assert talk.say(Begin(1, Spans([7], [5], [1]), NONE)) is None
    assert talk.say(Abandon(1)) is None
    assert talk.say(ReleaseKV([7])) is None


@pytest.mark.parametrize("window", [2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("dim", [6, 8])
def test_an_absurd_window_is_a_fault(window: int, dim: int) -> None:
    layer = AttentionLayer(1, 1, dim, dim, 1.0, window=window)
    worker = Worker(1 << 20, lambda _: False)
    message = Open(VERSION, [layer], "float32", "float32")
    answer = worker.handle(b"first", [memoryview(encode(message))])
    assert answer is not None
    assert isinstance(answer[0], Fault)


# Over sockets.


class Stranger:
    """A client that may connect and says anything."""

    def __init__(self, address: Address) -> None:
        self._channel = ClientChannel(address, IDENTITY)

    def say(self, frames: list[bytes]) -> None:
        self._channel.socket.send_multipart(frames or [b""])

    def answers(self) -> Iterator[FromWorker]:
        """What has come back so far."""
        while (received := self._channel.receive()) is not None:
            yield received[0]

    def close(self) -> None:
        self._channel.close()


def _ask_over(client: ClientChannel) -> Any:
    """Messages without an answer are followed by nothing: the next one waits behind them."""

    def ask(message: FromTier1, frames: list[bytes]) -> tuple[FromWorker, list[bytes]] | None:
        client.send(message, frames)
        last = len(LAYERS) - 1
        if isinstance(message, Begin | ReleaseKV) or message == Store(0, last - 1):
            return None
        while (received := client.receive()) is None or isinstance(received[0], Ping):
            assert client.socket.poll(60_000), f"no answer to {message}"
        return received[0], [bytes(frame) for frame in received[1]]

    return ask


@pytest.mark.parametrize("scheme", ["inproc", "ipc", "tcp"])
@settings(QUIET, max_examples=15)
@given(storm=STORM)
def test_strangers_over_sockets_disturb_nobody(
    tmp_path_factory: pytest.TempPathFactory, scheme: str, storm: list[list[list[bytes]]]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    with (
        _worker(scheme, folder) as address,
        ClientChannel(address, IDENTITY) as client,
        _strangers(address) as strangers,
    ):
        bursts = itertools.chain([[], []], storm)  # the session's answer has come

        def disturb() -> None:
            for number, frames in enumerate(next(bursts, [])):
                strangers[number % len(strangers)].say(frames)

        heard = answers(_ask_over(client), disturb)
        assert heard == undisturbed()
        for stranger in strangers:
            assert all(isinstance(answer, Fault) for answer in stranger.answers())


@contextmanager
def _worker(scheme: str, folder: Path) -> Iterator[Address]:
    elements = sum(layer.kv_elements for layer in LAYERS)
    with worker_thread(scheme, folder, PAGES * PAGE_TOKENS * 4 * elements) as address:
        yield address


@contextmanager
def _strangers(address: Address) -> Iterator[list[Stranger]]:
    strangers = [Stranger(address) for _ in range(2)]
    try:
        yield strangers
    finally:
        for stranger in strangers:
            stranger.close()


def test_answers_that_nobody_takes_do_not_pile_up(tmp_path: Path) -> None:
    """A client that only asks is not waited for, and the others are served."""
    with (
        _worker("ipc", tmp_path) as address,
        ClientChannel(address, IDENTITY) as client,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as deaf,
    ):
        deaf.linger, deaf.rcvhwm = 0, 1
        deaf.connect(address.endpoint)
        assert answers(_ask_over(client)) == undisturbed()
        for _ in range(20_000):  # the worker takes turns, so it answers all of these
            deaf.send(b"?" * 100)
            client.send(Abandon(77))
        assert answers(_ask_over(client)) == undisturbed()


def test_messages_are_what_they_were() -> None:
    """The storms are made of what a worker could get: most of them decode."""
    for frames in _SAID:
        decode(frames[0], FromTier1)
