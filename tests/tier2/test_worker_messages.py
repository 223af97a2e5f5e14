"""A worker's whole protocol, and every way of breaking it: a Fault, and nothing is harmed."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attention_cases import DTYPES, Twin
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.worker import Worker
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Ask,
    Attend,
    Attended,
    Begin,
    Bye,
    Fault,
    Fetch,
    FromTier1,
    Open,
    Opened,
    ReleaseKV,
    Spans,
    Stats,
    Store,
    Stored,
    encode,
)
from worker_talk import NONE, Talk, raw

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LAYERS = (
    AttentionLayer(4, 2, 8, 6, 0.4),
    AttentionLayer(4, 2, 8, 6, 0.4, window=3, softcap=5.0, sinks=(0.0, 1.0, -1.0, 0.5)),
)


def _truth(talk: Talk, layer: int, rows: list[tuple[int, int]]) -> tuple[Twin, torch.Tensor]:
    """A twin that holds tokens of (seed, length) in turn; and the last ones' queries."""
    twin, position, queries = Twin(LAYERS[layer], talk.dtype), 0, torch.empty(0)
    for seed, length in rows:
        queries, keys, values = talk.tensors(layer, seed, length)
        twin.write(0, position, keys, values)
        position += length
    return twin, queries


def _assert_decodes(talk: Talk, step: int, seed: int = 30) -> list[torch.Tensor]:
    """Sequence 7, whose prompt of 5 came from seed 20, goes on as the truth says."""
    outputs = talk.decode(step, 7, 5, seed)
    for layer, output in enumerate(outputs):
        twin, query = _truth(talk, layer, [(20, 5), (seed, 1)])
        expected, _ = twin.attend(0, query, 5)
        torch.testing.assert_close(output, expected.to(talk.dtype))
    return outputs


@pytest.fixture
def talk() -> Talk:
    """A session in which sequence 7 has a prompt of 5 tokens."""
    talk = Talk(LAYERS)
    talk.open()
    assert talk.prefill(0, 7, 5, seed=20) == (Stored(0), ())
    return talk


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_session_from_open_to_bye(dtype: str) -> None:
    talk = Talk(LAYERS, pages=16, dtype=dtype)
    assert talk.open() == Opened(
        16, PAGE_TOKENS, torch.get_num_threads(), 16, f"torch {torch.__version__}"
    )
    assert talk.prefill(0, 7, 5, seed=20) == (Stored(0), ())
    _assert_decodes(talk, step=1)
    answer = talk.say(Ask())
    assert answer is not None
    assert isinstance(answer[0], Stats)
    page_bytes = PAGE_TOKENS * 2 * LAYERS[0].kv_elements * DTYPES[dtype].itemsize
    assert answer[0].kv_bytes_peak == page_bytes
    assert answer[0].busy_s > 0
    assert talk.say(ReleaseKV([7])) is None
    assert talk.say(Bye()) is None
    assert talk.fault(Ask()).refused


def test_decodes_and_prompts_share_a_step(talk: Talk) -> None:
    assert talk.say(Begin(1, Spans([7], [5], [1]), Spans([8, 9], [0, 0], [3, 40]))) is None
    for layer in range(2):
        answer = talk.say(Attend(1, layer), *talk.frames(layer, 30, 1))
        twin, query = _truth(talk, layer, [(20, 5), (30, 1)])
        torch.testing.assert_close(talk.output(layer, answer), twin.attend(0, query, 5)[0])
        stored = talk.say(Store(1, layer), *talk.frames(layer, 31, 43)[1:])
        assert stored == (None if layer == 0 else (Stored(1), ()))
    assert talk.say(Begin(2, Spans([9], [40], [1]), NONE)) is None
    answer = talk.say(Attend(2, 0), *talk.frames(0, 33, 1))
    _, keys, values = talk.tensors(0, 31, 43)
    query, key, value = talk.tensors(0, 33, 1)
    twin = Twin(LAYERS[0], talk.dtype)
    twin.write(0, 0, torch.cat([keys[3:], key]), torch.cat([values[3:], value]))
    torch.testing.assert_close(talk.output(0, answer), twin.attend(0, query, 40)[0])


def test_an_abandoned_step_may_be_stepped_again(talk: Talk) -> None:
    talk.say(Begin(1, Spans([7], [5], [1]), NONE))
    talk.say(Attend(1, 0), *talk.frames(0, 99, 1))
    assert talk.say(Abandon(1)) is None
    assert "not begun" in talk.fault(Attend(1, 1), *talk.frames(1, 99, 1)).text
    _assert_decodes(talk, step=1)


def test_a_finished_step_is_forgotten(talk: Talk) -> None:
    for _ in range(3):
        _assert_decodes(talk, step=1)  # the same number begins anew


def test_steps_interleave(talk: Talk) -> None:
    talk.prefill(1, 8, 4, seed=40)
    talk.say(Begin(2, Spans([7], [5], [1]), NONE))
    talk.say(Begin(3, Spans([8], [4], [1]), NONE))
    for layer in range(2):
        for step, (prompt, position) in {3: (40, 4), 2: (20, 5)}.items():
            answer = talk.say(Attend(step, layer), *talk.frames(layer, 50 + step, 1))
            twin, query = _truth(talk, layer, [(prompt, position), (50 + step, 1)])
            expected, _ = twin.attend(0, query, position)
            torch.testing.assert_close(talk.output(layer, answer), expected)


def _spans(*spans: tuple[int, int, int]) -> Spans:
    return Spans(*(list(column) for column in zip(*spans, strict=True)))


def _begin(*decodes: tuple[int, int, int]) -> Begin:
    return Begin(5, _spans(*decodes), NONE)


#: What a Begin may not ask for; step 5 is fresh, step 4 runs, sequence 7 has 5 tokens.
BAD_STEPS = {
    "a step that runs": Begin(4, _spans((7, 5, 1)), NONE),
    "a prompt that starts late": Begin(5, NONE, Spans([7], [5], [2])),
    "no length": Begin(5, Spans([7], [5], []), NONE),
    "no start": Begin(5, NONE, Spans([8], [], [1])),
    "no sequence": Begin(5, NONE, Spans([], [0], [1])),
    "a start below zero": _begin((7, -1, 1)),
    "a start too far": _begin((7, 2**31, 1)),
    "an absurd start": _begin((7, 2**63 - 1, 1)),
    "an empty prompt": Begin(5, NONE, _spans((8, 0, 0))),
    "a prompt of negative length": Begin(5, NONE, _spans((8, 0, -3))),
    "a prompt that needs all memory there is": Begin(5, NONE, _spans((8, 0, 2**31 - 1))),
    "an absurd prompt": Begin(5, NONE, _spans((8, 0, 2**62))),
    "more pages than there are": Begin(5, NONE, _spans((8, 0, 16 * PAGE_TOKENS))),
    "a sequence twice": _begin((7, 5, 1), (7, 5, 1)),
    "a gap": _begin((7, 2 * PAGE_TOKENS, 1)),
    "a sequence that is not here": _begin((11, 1, 1)),
}
#: Parcels that do not fit step 4: two decode rows and a prompt of 3.
BAD_PARCELS: dict[str, tuple[FromTier1, list[int]]] = {
    "an unknown step": (Attend(77, 0), [256, 128, 96]),
    "a step below zero": (Attend(-1, 0), [256, 128, 96]),
    "an absurd step": (Store(2**63 - 1, 0), [192, 144]),
    "a layer beyond the last": (Attend(4, 2), [256, 128, 96]),
    "a layer below zero": (Attend(4, -1), [256, 128, 96]),
    "an absurd layer": (Store(4, 2**62), [192, 144]),
    "no frames": (Attend(4, 0), []),
    "two frames": (Attend(4, 0), [256, 128]),
    "four frames": (Attend(4, 0), [256, 128, 96, 0]),
    "empty frames": (Attend(4, 0), [0, 0, 0]),
    "a byte too few": (Attend(4, 0), [255, 128, 96]),
    "a byte too many": (Attend(4, 0), [256, 129, 96]),
    "a row too many": (Attend(4, 0), [384, 192, 144]),
    "values in place of keys": (Attend(4, 0), [256, 96, 128]),
    "a prompt too short": (Store(4, 0), [128, 96]),
    "a prompt with queries": (Store(4, 0), [384, 192, 144]),
}


def _begin_step_4(talk: Talk) -> None:
    """Sequences 7 and 8 decode, 9 has a prompt of 3."""
    talk.prefill(3, 8, 4, seed=40)
    assert talk.say(Begin(4, _spans((7, 5, 1), (8, 4, 1)), _spans((9, 0, 3)))) is None


def _finish_step_4(talk: Talk) -> None:
    """It goes on as if nothing had happened."""
    for layer in range(2):
        answer = talk.say(Attend(4, layer), *talk.frames(layer, 60, 2))
        outputs = talk.output(layer, answer)
        queries, keys, values = talk.tensors(layer, 60, 2)
        for row, (seed, length) in enumerate([(20, 5), (40, 4)]):
            twin, _ = _truth(talk, layer, [(seed, length)])
            twin.write(0, length, keys[row : row + 1], values[row : row + 1])
            expected, _ = twin.attend(0, queries[row : row + 1], length)
            torch.testing.assert_close(outputs[row : row + 1], expected)
        answer = talk.say(Store(4, layer), *talk.frames(layer, 61, 3)[1:])
    assert answer == (Stored(4), ())


@pytest.mark.parametrize("kind", list(BAD_STEPS))
def test_a_bad_step_is_a_fault_and_the_others_go_on(talk: Talk, kind: str) -> None:
    _begin_step_4(talk)
    assert not talk.fault(BAD_STEPS[kind]).refused
    _finish_step_4(talk)
    # Nothing was reserved for it: 13 of 16 pages are left.
    assert talk.say(Begin(6, NONE, _spans((10, 0, 13 * PAGE_TOKENS)))) is None


@pytest.mark.parametrize("kind", list(BAD_PARCELS))
def test_a_bad_parcel_is_a_fault_and_the_others_go_on(talk: Talk, kind: str) -> None:
    _begin_step_4(talk)
    message, sizes = BAD_PARCELS[kind]
    assert not talk.fault(message, *(b"\x7f" * size for size in sizes)).refused
    _finish_step_4(talk)


@pytest.mark.parametrize("header", [b"", b"\x00", b"garbage", b"\x93\xa6attend\x01", b"\xc1" * 99])
def test_garbage_is_a_fault_and_the_others_go_on(talk: Talk, header: bytes) -> None:
    _begin_step_4(talk)
    answer = talk.say_raw(header, b"frame")
    assert answer is not None
    assert isinstance(answer[0], Fault)
    _finish_step_4(talk)


def test_no_frames_at_all_are_a_fault(talk: Talk) -> None:
    answer = talk.say_raw()
    assert answer is not None
    assert isinstance(answer[0], Fault)
    _assert_decodes(talk, 1)


def test_a_worker_does_not_take_its_own_answers(talk: Talk) -> None:
    answer = talk.say_raw(encode(Attended(1, 1, 5)))
    assert answer is not None
    assert isinstance(answer[0], Fault)


def test_a_store_of_a_step_without_prompts_is_a_fault(talk: Talk) -> None:
    talk.say(Begin(1, _spans((7, 5, 1)), NONE))
    assert "no prompts" in talk.fault(Store(1, 0)).text
    talk.say(Begin(2, NONE, _spans((8, 0, 1))))
    assert "no rows to attend" in talk.fault(Attend(2, 0)).text


def test_decodes_that_are_done_are_not_attended_again(talk: Talk) -> None:
    talk.say(Begin(1, _spans((7, 5, 1)), _spans((8, 0, 2))))
    for layer in range(2):
        talk.say(Attend(1, layer), *talk.frames(layer, 1, 1))
    assert "done" in talk.fault(Attend(1, 0), *talk.frames(0, 1, 1)).text


def test_releasing_and_abandoning_what_is_not_there_does_no_harm(talk: Talk) -> None:
    assert talk.say(ReleaseKV([1, -5, 2**62])) is None
    assert talk.say(Abandon(-9)) is None
    _assert_decodes(talk, 1)


def test_released_pages_are_given_to_others(talk: Talk) -> None:
    everything = Begin(1, NONE, _spans((8, 0, 16 * PAGE_TOKENS)))
    assert "pre-empt" in talk.fault(everything).text
    talk.say(ReleaseKV([7]))
    assert talk.say(everything) is None


def test_a_step_whose_prompts_do_not_fit_reserves_nothing_for_its_decodes() -> None:
    talk = Talk(LAYERS, pages=2)
    talk.open()
    talk.prefill(0, 7, PAGE_TOKENS, seed=1)
    talk.fault(Begin(1, _spans((7, PAGE_TOKENS, 1)), _spans((8, 0, 1))))
    assert talk.say(Begin(2, NONE, _spans((8, 0, 1)))) is None


def test_a_sequence_among_decodes_and_prompts_of_one_step_is_a_fault(talk: Talk) -> None:
    talk.fault(Begin(1, _spans((7, 5, 1)), _spans((7, 0, 3))))


BEFORE_OPEN: list[FromTier1] = [
    Begin(0, NONE, _spans((1, 0, 1))),
    Attend(0, 0),
    Fetch(0, 0),
    Store(0, 0),
    ReleaseKV([1]),
    Abandon(0),
    Ask(),
    Bye(),
]


@pytest.mark.parametrize("message", BEFORE_OPEN, ids=lambda message: type(message).__name__)
def test_before_open_every_message_is_refused(message: FromTier1) -> None:
    talk = Talk(LAYERS)
    assert talk.fault(message).refused
    talk.open()


@pytest.mark.parametrize("message", BEFORE_OPEN, ids=lambda message: type(message).__name__)
def test_a_stranger_cannot_touch_the_session(talk: Talk, message: FromTier1) -> None:
    assert talk.fault(message, client=b"second").refused
    _assert_decodes(talk, 1)


def test_a_second_client_is_refused_while_the_first_is_there(talk: Talk) -> None:
    talk.present = {b"first"}
    message = Open(VERSION, list(LAYERS), "float32", "float32")
    fault = talk.fault(message, client=b"second")
    assert fault.refused
    assert "another run" in fault.text
    _assert_decodes(talk, 1)


def test_a_second_client_takes_over_when_the_first_has_gone(talk: Talk) -> None:
    assert talk.open(client=b"second").num_pages == 16
    assert talk.fault(Ask()).refused
    assert talk.say(Begin(0, NONE, _spans((1, 0, 16 * PAGE_TOKENS))), client=b"second") is None


def test_after_bye_a_second_client_is_welcome(talk: Talk) -> None:
    talk.present = {b"first"}
    talk.say(Bye())
    talk.open(client=b"second")


def test_the_same_client_may_begin_a_new_session(talk: Talk) -> None:
    talk.present = {b"first"}
    talk.open()
    assert "no KV" in talk.fault(Begin(1, _spans((7, 5, 1)), NONE)).text


BIG = 65_537
BAD_OPENS: dict[str, Callable[[], Open]] = {
    "an older version": lambda: Open(VERSION - 1, list(LAYERS), "float32", "float32"),
    "a newer version": lambda: Open(VERSION + 1, list(LAYERS), "float32", "float32"),
    "no layers": lambda: Open(VERSION, [], "float32", "float32"),
    "an unknown dtype": lambda: Open(VERSION, list(LAYERS), "float64", "float32"),
    "an attribute of torch as dtype": lambda: Open(VERSION, list(LAYERS), "float32", "load"),
    "no heads": lambda: _open_layer(AttentionLayer(0, 1, 1, 1, 1.0)),
    "no KV heads": lambda: _open_layer(AttentionLayer(1, 0, 1, 1, 1.0)),
    "negative heads": lambda: _open_layer(AttentionLayer(-2, -1, 1, 1, 1.0)),
    "heads in no groups": lambda: _open_layer(AttentionLayer(3, 2, 1, 1, 1.0)),
    "an absurd head": lambda: _open_layer(AttentionLayer(1, 1, BIG, 1, 1.0)),
    "absurd values": lambda: _open_layer(AttentionLayer(1, 1, 1, 2**62, 1.0)),
    "absurd heads": lambda: _open_layer(AttentionLayer(BIG, BIG, 1, 1, 1.0)),
    "too few sinks": lambda: _open_layer(AttentionLayer(2, 1, 1, 1, 1.0, sinks=(1.0,))),
    "too many sinks": lambda: _open_layer(AttentionLayer(1, 1, 1, 1, 1.0, sinks=(1.0,) * 9)),
    "a page beyond all memory": lambda: _open_layer(*[AttentionLayer(64, 64, 9999, 1, 1.0)] * 9),
}
#: Accepted today; each makes every answer NaN or takes gigabytes for one row.
ACCEPTED_OPENS: dict[str, Callable[[], Open]] = {
    "a window of nothing": lambda: _open_layer(AttentionLayer(1, 1, 1, 1, 1.0, window=0)),
    "a negative window": lambda: _open_layer(AttentionLayer(1, 1, 1, 1, 1.0, window=-1)),
    "a cap of zero": lambda: _open_layer(AttentionLayer(1, 1, 1, 1, 1.0, softcap=0.0)),
    "no number as scaling": lambda: _open_layer(AttentionLayer(1, 1, 1, 1, float("nan"))),
    "an infinite scaling": lambda: _open_layer(AttentionLayer(1, 1, 1, 1, float("inf"))),
    "gigabytes a row": lambda: _open_layer(AttentionLayer(65_536, 1, 1, 65_536, 1.0)),
}


def _open_layer(*layers: AttentionLayer) -> Open:
    return Open(VERSION, list(layers), "float32", "float32")


@pytest.mark.parametrize("kind", list(BAD_OPENS))
def test_a_bad_open_is_a_fault_and_a_good_one_follows(kind: str) -> None:
    talk = Talk(LAYERS)
    talk.fault(BAD_OPENS[kind]())
    talk.open()
    talk.prefill(0, 7, 5, seed=20)
    _assert_decodes(talk, 1)


@pytest.mark.parametrize("kind", list(ACCEPTED_OPENS))
def test_a_layer_that_cannot_be_attended_is_a_fault(kind: str) -> None:
    worker = Worker(1 << 24, lambda _: False)
    answer = worker.handle(b"first", [memoryview(encode(ACCEPTED_OPENS[kind]()))])
    assert answer is not None
    assert isinstance(answer[0], Fault)


def test_refusals_say_so() -> None:
    """Tier 1 tells "wrong worker" from "broken message" by this."""
    talk = Talk(LAYERS)
    assert talk.fault(BAD_OPENS["a newer version"]()).refused
    assert talk.fault(BAD_OPENS["a page beyond all memory"]()).refused
    assert not talk.fault(BAD_OPENS["no heads"]()).refused


def test_more_memory_than_the_machine_has_is_refused() -> None:
    worker = Worker(1 << 60, lambda _: False)
    layers = [AttentionLayer(64, 64, 65_536, 65_536, 1.0)] * 1024
    answer = worker.handle(b"first", [memoryview(encode(_open_layer(*layers)))])
    assert answer is not None
    assert isinstance(answer[0], Fault)
    assert answer[0].refused


def test_busy_time_and_peak_count_this_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("glinthawk.tier2.worker.time", ticks)
    talk = Talk(LAYERS)
    for _ in range(2):
        talk.open()
        talk.prefill(0, 7, 5, seed=20)
        answer = talk.say(Ask())
        assert answer is not None
        # Open, Begin and two Stores took a tick each; the one that asks is not over.
        assert answer[0] == Stats(4, 2 * PAGE_TOKENS * LAYERS[0].kv_elements * 4)


# The fuzzers. SMALL are numbers that mean something in the session and some that never do.
SMALL = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 32, 33, -1, 2**31 - 1, 2**31, 2**63 - 1, -(2**63)])
COLUMN = st.lists(SMALL, max_size=3)
SPANS = st.builds(Spans, COLUMN, COLUMN, COLUMN) | st.sampled_from(
    [NONE, _spans((7, 5, 1)), _spans((8, 0, 3)), _spans((8, 0, 1), (9, 0, 1))]
)
SIZES = st.sampled_from([0, 1, 48, 64, 96, 128, 144, 192, 256, 384])
MESSAGES = st.one_of(
    st.builds(Begin, SMALL, SPANS, SPANS),
    st.builds(Attend, SMALL, SMALL),
    st.builds(Fetch, SMALL, SMALL),
    st.builds(Store, SMALL, SMALL),
    st.builds(ReleaseKV, COLUMN),
    st.builds(Abandon, SMALL),
    st.just(Ask()),
    st.sampled_from([make() for make in BAD_OPENS.values()]),
)


@settings(QUIET, max_examples=80)
@given(
    st.lists(
        st.tuples(MESSAGES, st.lists(SIZES, max_size=4), st.sampled_from([b"first", b"second"])),
        max_size=25,
    )
)
def test_random_messages_never_stop_a_worker(storm: list[tuple[Any, list[int], bytes]]) -> None:
    talk = Talk(LAYERS)
    talk.present = {b"first"}
    talk.open()
    for message, sizes, client in storm:
        answer = talk.say(message, *(bytes(size) for size in sizes), client=client)
        if isinstance(message, Attend | Begin) and client == b"second":
            assert answer is not None
            assert isinstance(answer[0], Fault)
    talk.open()
    talk.prefill(0, 7, 5, seed=20)
    _assert_decodes(talk, 1)


@QUIET
@given(st.lists(st.lists(st.binary(max_size=60), max_size=4), max_size=5))
@example([[b"\x91\xa1\xff"]])
def test_random_bytes_never_stop_a_worker(storm: list[list[bytes]]) -> None:
    talk = Talk(LAYERS)
    talk.open()
    for frames in storm:
        talk.say_raw(*frames)
    talk.open()


def test_frames_are_read_without_a_copy_and_never_written(talk: Talk) -> None:
    talk.say(Begin(1, _spans((7, 5, 1)), NONE))
    frames = [bytearray(frame) for frame in talk.frames(0, 30, 1)]
    before = [bytes(frame) for frame in frames]
    views = [memoryview(bytearray(encode(Attend(1, 0)))), *map(memoryview, frames)]
    assert talk.worker.handle(b"first", views) is not None
    assert [bytes(frame) for frame in frames] == before
    assert before[0] == raw(talk.tensors(0, 30, 1)[0])
