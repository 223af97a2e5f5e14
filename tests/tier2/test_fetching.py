"""A worker whose KV is attended elsewhere: what it sends, and every way of asking wrongly."""

from functools import partial

import pytest
import torch

from attention_cases import Twin
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.fetched_pages import FetchedPages
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.worker import Answer
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Attend,
    Begin,
    BeginPart,
    Fault,
    Fetch,
    Fetched,
    Open,
    Opened,
    Spans,
    Stored,
    View,
)
from worker_talk import NONE, Talk

_WINDOW = 30
LAYERS = (
    AttentionLayer(4, 2, 8, 16, 0.4),
    AttentionLayer(4, 2, 8, 16, 0.4, window=_WINDOW, softcap=5.0, sinks=(0.0, 1.0, -1.0, 0.5)),
)
_UNIT = PAGE_TOKENS * LAYERS[0].kv_elements * 4
_PROMPT = 3 * PAGE_TOKENS


def _open(*layers: AttentionLayer, views: tuple[int, ...] = ()) -> Open:
    return Open(VERSION, list(layers), "float32", "float32", list(views), fetches=True)


@pytest.fixture
def talk() -> Talk:
    """A session in which sequence 7 has a prompt of 3 pages and 8 one of 5 tokens."""
    talk = Talk(LAYERS)
    answer = talk.say(_open(*LAYERS))
    assert answer is not None
    assert isinstance(answer[0], Opened)
    talk.prefill(0, 7, _PROMPT, seed=20)
    assert talk.prefill(1, 8, 5, seed=21) == (Stored(1), ())
    return talk


def _begin(talk: Talk, step: int = 2) -> None:
    assert talk.say(Begin(step, Spans([7, 8], [_PROMPT, 5], [1, 1]), NONE)) is None


def _fetch(talk: Talk, step: int, layer: int, rows: int = 2) -> Answer | None:
    return talk.say(Fetch(step, layer), *talk.frames(layer, 30, rows)[1:])


def _frames(answer: Answer | None, layer: int) -> list[memoryview]:
    """Pages and places of a Fetched."""
    assert answer is not None
    message, frames = answer
    assert isinstance(message, Fetched), message
    assert message.layer == layer
    assert len(frames) == 2
    return [memoryview(bytearray(frame)) for frame in frames]


def _truth(talk: Talk, layer: int) -> torch.Tensor:
    """Attention of the two rows."""
    queries, keys, values = talk.tensors(layer, 30, 2)
    outputs = []
    for row, (seed, length) in enumerate([(20, _PROMPT), (21, 5)]):
        twin = Twin(LAYERS[layer], talk.dtype)
        twin.write(0, 0, *talk.tensors(layer, seed, length)[1:])
        twin.write(0, length, keys[row : row + 1], values[row : row + 1])
        outputs.append(twin.attend(0, queries[row : row + 1], length)[0])
    return torch.cat(outputs)


def test_fetched_pages_are_attended_as_the_truth_says(talk: Talk) -> None:
    """Of the second layer, pages that are out of its window's sight are left out."""
    attention = FetchedPages(LAYERS, "float32", 1)
    _begin(talk)
    rows = attention.lay_out([_PROMPT, 5], [1, 1])
    for layer, num_pages in enumerate([5, 3]):
        pages, places = _frames(_fetch(talk, 2, layer), layer)
        assert (pages.nbytes, places.nbytes) == (num_pages * _UNIT, num_pages * 4)
        queries = talk.tensors(layer, 30, 2)[0]
        output = attention.attend(layer, rows, pages, places, queries)
        torch.testing.assert_close(output, _truth(talk, layer))
    assert "not begun" in talk.fault(Fetch(2, 1), *talk.frames(1, 30, 2)[1:]).text


def test_a_shared_page_is_sent_once(talk: Talk) -> None:
    fork = Begin(2, Spans([7, 9], [_PROMPT] * 2, [1, 1]), NONE, [(7, 9, _PROMPT)])
    assert talk.say(fork) is None
    pages, places = _frames(_fetch(talk, 2, 0), 0)
    assert (pages.nbytes, places.nbytes) == (5 * _UNIT, 8 * 4)


def test_steps_are_fetched_beside_prompts_and_attended_ones(talk: Talk) -> None:
    assert talk.say(Begin(2, Spans([7], [_PROMPT], [1]), Spans([9], [0], [3]))) is None
    _frames(_fetch(talk, 2, 0, rows=1), 0)
    assert talk.say(Attend(2, 1), *talk.frames(1, 30, 1)) is not None
    assert "done" in talk.fault(Fetch(2, 1), *talk.frames(1, 30, 1)[1:]).text
    assert talk.store_all(2, 3, seed=22) == (Stored(2), ())


def test_a_step_that_is_abandoned_sends_nothing_more(talk: Talk) -> None:
    _begin(talk)
    before = [bytes(frame) for frame in _frames(_fetch(talk, 2, 0), 0)]
    assert talk.say(Abandon(2)) is None
    assert "not begun" in talk.fault(Fetch(2, 1), *talk.frames(1, 30, 2)[1:]).text
    _begin(talk)
    assert [bytes(frame) for frame in _frames(_fetch(talk, 2, 0), 0)] == before


BAD_PARCELS: dict[str, tuple[Fetch, list[int]]] = {
    "an unknown step": (Fetch(77, 0), [128, 256]),
    "an absurd step": (Fetch(2**63 - 1, 0), [128, 256]),
    "a layer beyond the last": (Fetch(2, 2), [128, 256]),
    "a layer below zero": (Fetch(2, -1), [128, 256]),
    "no frames": (Fetch(2, 0), []),
    "queries, too": (Fetch(2, 0), [256, 128, 256]),
    "empty frames": (Fetch(2, 0), [0, 0]),
    "a byte too few": (Fetch(2, 0), [127, 256]),
    "a row too many": (Fetch(2, 0), [192, 384]),
    "values in place of keys": (Fetch(2, 0), [256, 128]),
}


@pytest.mark.parametrize("kind", list(BAD_PARCELS))
def test_a_bad_parcel_is_a_fault_and_the_step_goes_on(talk: Talk, kind: str) -> None:
    _begin(talk)
    message, sizes = BAD_PARCELS[kind]
    assert not talk.fault(message, *(b"\x7f" * size for size in sizes)).refused
    for layer in range(2):
        _frames(_fetch(talk, 2, layer), layer)


def test_a_step_of_prompts_has_nothing_to_fetch(talk: Talk) -> None:
    assert talk.say(Begin(2, NONE, Spans([9], [0], [3]))) is None
    assert "no rows to fetch" in talk.fault(Fetch(2, 0), *talk.frames(0, 30, 3)[1:]).text


def test_more_than_a_frame_is_a_fault(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing was written: the step may go on where the worker attends."""
    monkeypatch.setattr("glinthawk.tier2.session.LARGEST_FRAME", 5 * _UNIT - 1)
    _begin(talk)
    assert "--batch-size" in talk.fault(Fetch(2, 0), *talk.frames(0, 31, 2)[1:]).text
    assert talk.say(Attend(2, 0), *talk.frames(0, 30, 2)) is not None


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_other_backends_refuse_at_once(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr("glinthawk.tier2.session.KVCache", partial(KVCache, backend=backend))
    talk = Talk(LAYERS)
    fault = talk.fault(_open(*LAYERS))
    assert fault.refused
    assert "--kv-placement near" in fault.text
    talk.open()  # to attend there is fine
    talk.prefill(0, 7, 5, seed=20)
    assert talk.say(Begin(1, Spans([7], [5], [1]), NONE)) is None
    assert talk.fault(Fetch(1, 0), *talk.frames(0, 30, 1)[1:]).refused


def test_head_sizes_that_the_kernels_do_not_take_are_refused_on_both_sides() -> None:
    layer = AttentionLayer(2, 1, 6, 6, 1.0)
    assert Talk([layer]).fault(_open(layer)).refused
    with pytest.raises(UsageError, match="`kv_placement` near"):
        FetchedPages([layer], "float32", 1)


def test_parts_of_sequences_are_not_fetched() -> None:
    layer = AttentionLayer(4, 2, 8, 16, 0.4)
    talk = Talk([layer])
    assert not talk.fault(_open(layer, views=(0,))).refused
    assert talk.say(Open(VERSION, [layer], "float32", "float32", [0])) is not None
    begin = BeginPart(0, NONE, Spans([7], [0], [3]))
    assert talk.say(begin) is None
    talk.store_all(0, 3, seed=20)
    extends = Spans([7], [3], [1])
    assert talk.say(BeginPart(1, extends, NONE, views=[View([7], [0], [4])])) is None
    fault = talk.fault(Fetch(1, 0), *talk.frames(0, 30, 1)[1:])
    assert "no rows to fetch" in fault.text


def test_a_session_that_was_not_opened_to_fetch_answers_too() -> None:
    """What it cannot answer it would have refused; there is nothing to protect."""
    talk = Talk(LAYERS)
    talk.open()
    talk.prefill(0, 7, 5, seed=20)
    assert talk.say(Begin(1, Spans([7], [5], [1]), NONE)) is None
    answer = _fetch(talk, 1, 0, rows=1)
    assert answer is not None
    assert not isinstance(answer[0], Fault)
