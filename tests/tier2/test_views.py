"""Rows that attend to a part of what is kept, in every backend, and the session that has them."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attention_cases import normal
from glinthawk.attention.reference import attend_sequence
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Attend,
    Attended,
    Begin,
    BeginPart,
    Open,
    Spans,
    View,
)
from worker_talk import NONE, Talk

LENGTHS = [5, 70, 600]
LAYERS = (
    AttentionLayer(4, 2, 16, 8, 0.3),
    AttentionLayer(6, 2, 8, 16, 0.3, softcap=5.0, window=40),
)
DEVICES = {
    "native": "cpu",
    "torch": "cpu",
    "triton": "cuda" if torch.cuda.is_available() else "cpu",
}


def _views() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    def ranges(sequence: int) -> st.SearchStrategy[tuple[int, int, int]]:
        ends = st.integers(1, LENGTHS[sequence])
        return ends.flatmap(
            lambda end: st.tuples(st.just(sequence), st.integers(0, end - 1), st.just(end))
        )

    return st.lists(st.integers(0, 2).flatmap(ranges), min_size=1, max_size=6)


_caches: dict[str, tuple[KVCache, list[list[tuple[torch.Tensor, torch.Tensor]]]]] = {}


def _cache(backend: str) -> tuple[KVCache, list[list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Three sequences; and keys and values of each, layer by layer."""
    if backend not in _caches:
        device = DEVICES[backend]
        cache = KVCache(LAYERS, 1 << 20, "float32", device, backend=backend)
        (table,) = cache.begin([], ([0, 1, 2], [0, 0, 0], LENGTHS))
        truth = []
        for index, layer in enumerate(LAYERS):
            k = normal(1 + index, sum(LENGTHS), layer.num_kv_heads, layer.head_dim)
            v = normal(5 + index, sum(LENGTHS), layer.num_kv_heads, layer.value_dim)
            assert table is not None
            cache.backend.append(index, table, k.to(device), v.to(device))
            truth.append(list(zip(k.split(LENGTHS), v.split(LENGTHS), strict=True)))
        _caches[backend] = cache, truth
    return _caches[backend]


@pytest.mark.parametrize("backend", list(DEVICES))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=_views(), seed=st.integers(0, 99))
def test_a_row_sees_its_range_and_nothing_else(
    backend: str, rows: list[tuple[int, int, int]], seed: int
) -> None:
    cache, truth = _cache(backend)
    table = cache.pages.look_at(*(list(column) for column in zip(*rows, strict=True)))
    for index, layer in enumerate(LAYERS):
        queries = normal(seed, len(rows), layer.num_heads, layer.head_dim)
        output, lse = cache.backend.attend(index, table, queries.to(DEVICES[backend]))
        for row, (sequence, first, end) in enumerate(rows):
            k, v = (tensor[first:end] for tensor in truth[index][sequence])
            expected = attend_sequence(queries[row : row + 1], k, v, layer)
            torch.testing.assert_close(output[row].cpu(), expected[0][0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(lse[row].cpu(), expected[1][0], atol=1e-5, rtol=1e-4)


# The session.

PART = (AttentionLayer(4, 2, 8, 6, 0.4), AttentionLayer(4, 2, 8, 6, 0.4, softcap=5.0))


def _open(talk: Talk, views: list[int]) -> Any:
    layers = list(talk.layers)
    return talk.say(Open(VERSION, layers, talk.dtype_name, talk.dtype_name, views))


@pytest.fixture
def talk() -> Talk:
    """Each layer has a view of its own; sequence 7 has 40 tokens."""
    talk = Talk(PART)
    _open(talk, [0, 1])
    assert talk.say(BeginPart(0, NONE, Spans([7], [0], [40]))) is None
    talk.store_all(0, 40, seed=20)
    return talk


def _attended(talk: Talk, layer: int, answer: Any) -> torch.Tensor:
    """The output, once the log-sum-exps beside it have been looked at."""
    message, (output, lses) = answer
    assert isinstance(message, Attended)
    rows = lses.nbytes // 4 // PART[layer].num_heads
    assert torch.frombuffer(bytearray(lses), dtype=torch.float32).isfinite().all()
    return torch.frombuffer(bytearray(output), dtype=talk.dtype).view(rows, 4, 6)


def test_rows_query_with_and_without_new_tokens(talk: Talk) -> None:
    views = [View([7, 7], [0, 3], [41, 40]), View([7], [30], [41])]
    assert talk.say(BeginPart(1, Spans([7], [40], [1]), NONE, [], views)) is None
    for layer, view in enumerate(views):
        q, k, v = talk.tensors(layer, 30, len(view.ends))
        frames = [talk.frames(layer, 30, len(view.ends))[0], *talk.frames(layer, 31, 1)[1:]]
        output = _attended(talk, layer, talk.say(Attend(1, layer), *frames))
        _, k, v = (
            torch.cat(pair)
            for pair in zip(talk.tensors(layer, 20, 40), talk.tensors(layer, 31, 1), strict=True)
        )
        for row, (first, end) in enumerate(zip(view.firsts, view.ends, strict=True)):
            expected, _ = attend_sequence(q[row : row + 1], k[first:end], v[first:end], PART[layer])
            torch.testing.assert_close(output[row], expected[0])
    assert "done" in talk.fault(Attend(1, 1)).text or "not begun" in talk.fault(Attend(1, 1)).text


def test_a_layer_without_rows_is_not_asked_for_and_ends_the_step_too(talk: Talk) -> None:
    views = [View([7], [0], [40]), View([], [], [])]
    assert talk.say(BeginPart(1, NONE, NONE, [], views)) is None
    assert "no rows" in talk.fault(Attend(1, 1), *talk.frames(1, 30, 1)[:1]).text
    _attended(talk, 0, talk.say(Attend(1, 0), talk.frames(0, 30, 1)[0]))
    assert "not begun" in talk.fault(Attend(1, 0), talk.frames(0, 30, 1)[0]).text


def test_a_step_of_queries_can_be_abandoned(talk: Talk) -> None:
    views = [View([7], [0], [40]), View([7], [0], [40])]
    for _ in range(2):
        assert talk.say(BeginPart(1, NONE, NONE, [], views)) is None
        assert talk.say(Abandon(1)) is None
    assert "not begun" in talk.fault(Attend(1, 0), talk.frames(0, 30, 1)[0]).text


EMPTY = View([], [], [])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Begin(1, Spans([7], [40], [1]), NONE), "if, and only if"),
        (BeginPart(1, NONE, NONE, [], [EMPTY]), "2 views"),
        (BeginPart(1, NONE, NONE, [], [View([7], [0], [41]), EMPTY]), "no tokens 0 to 41"),
        (BeginPart(1, NONE, NONE, [], [View([7], [-1], [4]), EMPTY]), "no tokens -1 to 4"),
        (BeginPart(1, NONE, NONE, [], [View([7], [4], [4]), EMPTY]), "no tokens 4 to 4"),
        (BeginPart(1, NONE, NONE, [], [View([8], [0], [1]), EMPTY]), "sequence 8"),
        (BeginPart(1, NONE, NONE, [], [View([7], [0], []), EMPTY]), "as many"),
        (
            BeginPart(1, Spans([7], [40], [1]), NONE, [], [View([7], [0], [2**62]), EMPTY]),
            "no tokens",
        ),
    ],
)
def test_a_bad_view_is_a_fault_and_changes_nothing(talk: Talk, message: Begin, reason: str) -> None:
    assert reason in talk.fault(message).text
    whole = View([7], [0], [40])
    assert talk.say(BeginPart(1, NONE, NONE, [], [whole, whole])) is None


def test_rows_without_frames_for_their_new_tokens_are_a_fault(talk: Talk) -> None:
    whole = View([7], [0], [41])
    talk.say(BeginPart(1, Spans([7], [40], [1]), NONE, [], [whole, whole]))
    assert "3 frames" in talk.fault(Attend(1, 0), talk.frames(0, 30, 1)[0]).text


def test_a_fork_may_be_looked_at_at_once(talk: Talk) -> None:
    view = View([8], [0], [PAGE_TOKENS])
    assert talk.say(BeginPart(1, NONE, NONE, [(7, 8, PAGE_TOKENS)], [view, view])) is None
    _attended(talk, 0, talk.say(Attend(1, 0), talk.frames(0, 30, 1)[0]))


@pytest.mark.parametrize(
    ("layers", "views", "reason"),
    [
        (PART, [0], "each layer has a view"),
        (PART, [0, 2], "each layer has a view"),
        (PART, [-1, 0], "each layer has a view"),
        ((AttentionLayer(4, 2, 8, 6, 0.4, window=3),), [0], "windows"),
        ((AttentionLayer(2, 2, 8, 6, 0.4, sinks=(0.0, 1.0)),), [0], "sinks"),
    ],
)
def test_sessions_that_cannot_be_are_refused(
    layers: tuple[AttentionLayer, ...], views: list[int], reason: str
) -> None:
    talk = Talk(layers)
    message = Open(VERSION, list(layers), "float32", "float32", views)
    assert reason in talk.fault(message).text


def test_a_session_without_views_takes_no_parts() -> None:
    talk = Talk(PART)
    talk.open()
    assert "if, and only if" in talk.fault(BeginPart(1, Spans([7], [0], [1]), NONE)).text
