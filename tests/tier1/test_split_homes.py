"""Several workers as one home answer as one cache does, whatever is stored, shared, forgotten."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from direct import DirectChannel
from home_pairs import CPU, LOCAL, PLAIN, QUIET, Pair, make_spec, memory_of, opened, specs, walk
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.batch import Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError, WireError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.spec import AttentionLayer, ModelSpec, share_heads
from glinthawk.tier1.kv.head_split import HeadSplitHome
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.tier1.kv.token_split import RangeSplitHome
from glinthawk.wire.messages import Attend, Begin, BeginPart, Store


def _split_heads(spec: ModelSpec, num_parts: int, num_pages: int) -> HeadSplitHome:
    shares = [share_heads(spec.layers, part, num_parts) for part in range(num_parts)]
    channels = [DirectChannel(memory_of(share, num_pages)) for share in shares]
    return opened(HeadSplitHome(1, channels, spec, CPU))  # type: ignore[arg-type]


def _split_tokens(spec: ModelSpec, counts: list[int], stripe_pages: int) -> RangeSplitHome:
    channels = [DirectChannel(memory_of(spec.layers, count)) for count in counts]
    return opened(
        RangeSplitHome(1, channels, spec, CPU, stripe_pages=stripe_pages)  # type: ignore[arg-type]
    )


@QUIET
@given(st.integers(2, 3).flatmap(lambda n: st.tuples(st.just(n), specs(n))), st.data())
def test_heads_shared_out_answer_as_one_cache(
    split: tuple[int, ModelSpec], data: st.DataObject
) -> None:
    num_parts, spec = split
    walk(Pair(spec, _split_heads(spec, num_parts, 24), 24), data)


@QUIET
@given(
    specs(),
    st.lists(st.integers(1, 12), min_size=2, max_size=4),
    st.integers(1, 3),
    st.data(),
)
def test_tokens_shared_out_answer_as_one_cache(
    spec: ModelSpec, counts: list[int], stripe_pages: int, data: st.DataObject
) -> None:
    """Memory is scarce and unequal: a page that is free at any worker is used."""
    home = _split_tokens(spec, counts, stripe_pages)
    walk(Pair(spec, home, sum(counts)), data)
    home._stripes.validate()


def _prefilled(home: Any, spec: ModelSpec, lengths: list[int]) -> None:
    spans = [
        Span(Sequence(Request(i, (5,) * n, SamplingParams(), 0, 8)), 1, 0, n)
        for i, n in enumerate(lengths)
    ]
    home.begin(0, [], spans)
    for index, layer in enumerate(spec.layers):
        kv = [torch.randn(sum(lengths), layer.num_kv_heads, layer.head_dim) for _ in range(2)]
        home.store(0, index, *kv)
    home.finish(0)


def _decode(home: Any, spec: ModelSpec, length: int) -> None:
    request = Request(0, (5,) * (length + 1), SamplingParams(), 0, 8)
    home.begin(1, [Span(Sequence(request), 1, length, 1)], [])
    for index, layer in enumerate(spec.layers):
        q = torch.randn(1, layer.num_heads, layer.head_dim)
        k, v = torch.randn(2, 1, layer.num_kv_heads, layer.head_dim)
        home.attend(1, index, q, k, v)


def test_workers_without_tokens_in_sight_hear_nothing() -> None:
    spec = make_spec(LOCAL, PLAIN, LOCAL)
    home = _split_tokens(spec, [8, 8, 8], stripe_pages=1)
    _prefilled(home, spec, [3 * PAGE_TOKENS])
    channels: list[Any] = [link.channel for link in home.links]
    for channel in channels:
        channel.sent.clear()
    _decode(home, spec, 3 * PAGE_TOKENS)  # whose 20 newest tokens lie in pages 2 and 3
    owners = home._stripes._owners[0]
    assert sorted(owners[:3]) == [0, 1, 2]
    for number, channel in enumerate(channels):
        layers = [message.layer for message in channel.sent if isinstance(message, Attend)]
        assert layers == ([0, 1, 2] if number in owners[2:] else [1])


def test_an_answer_is_complete_when_all_have_answered() -> None:
    spec = make_spec(PLAIN)
    for home in (_split_heads(spec, 2, 8), _split_tokens(spec, [4, 4], stripe_pages=1)):
        _prefilled(home, spec, [2 * PAGE_TOKENS])
        home.receive()
        late = home.links[0].channel
        answer, late.receive = late.receive, lambda: None  # type: ignore[method-assign]
        _decode(home, spec, 2 * PAGE_TOKENS)
        assert home.receive() == []
        late.receive = answer  # type: ignore[method-assign]
        (reply,) = home.receive()
        assert reply.output is not None
        assert home.receive() == []


def test_a_long_sequence_is_read_in_equal_parts() -> None:
    spec = make_spec(PLAIN)
    home = _split_tokens(spec, [40, 40, 40], stripe_pages=4)
    _prefilled(home, spec, [100 * PAGE_TOKENS])
    held = [home._stripes.count(0, part, 100 * PAGE_TOKENS) for part in range(3)]
    assert max(held) - min(held) <= 4 * PAGE_TOKENS


def test_a_short_sequence_lies_at_one_worker_and_others_elsewhere() -> None:
    spec = make_spec(PLAIN)
    home = _split_tokens(spec, [40, 40, 40], stripe_pages=4)
    _prefilled(home, spec, [3 * PAGE_TOKENS] * 3)
    assert sorted(home._stripes._owners.values()) == [[0] * 3, [1] * 3, [2] * 3]


def test_more_than_all_workers_hold_is_an_error() -> None:
    spec = make_spec(PLAIN)
    home = _split_tokens(spec, [2, 2], stripe_pages=1)
    with pytest.raises(WireError, match="pre-empt"):
        _prefilled(home, spec, [4 * PAGE_TOKENS + 1])


def test_heads_that_do_not_divide_are_an_error_that_says_what_to_do() -> None:
    make: Callable[[], Any] = lambda: _split_heads(make_spec(PLAIN), 3, 8)  # noqa: E731
    with pytest.raises(UsageError, match=r"3 workers cannot share 2 KV heads.*--tier2.*tokens"):
        make()


def test_shares_of_heads_are_the_whole() -> None:
    sinks = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    layer = AttentionLayer(8, 4, 16, 12, 0.3, window=9, softcap=3.0, sinks=sinks)
    shares = [share_heads([layer, PLAIN], part, 2) for part in range(2)]
    assert [share[0].sinks for share in shares] == [sinks[:4], sinks[4:]]
    assert {(s.num_heads, s.num_kv_heads, s.window, s.softcap) for s, _ in shares} == {(4, 2, 9, 3)}
    assert [share[1] for share in shares] == [AttentionLayer(2, 1, 8, 8, 0.3)] * 2


def test_a_worker_of_its_own_is_sent_what_it_always_was() -> None:
    spec = make_spec(PLAIN)
    channel = DirectChannel(memory_of(spec.layers, 8))
    home = opened(RemoteHome(1, channel, spec, CPU))  # type: ignore[arg-type]
    _prefilled(home, spec, [40])
    _decode(home, spec, 40)
    kinds = [type(message) for message in channel.sent[1:]]
    assert kinds == [Begin, Store, Begin, Attend]
    assert BeginPart not in kinds
