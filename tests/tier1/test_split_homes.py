"""Several workers as one home answer as one cache does, whatever is stored, shared, forgotten."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from direct import DirectChannel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.batch import Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import UsageError, WireError
from glinthawk.core.pages import Pages
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.spec import AttentionLayer, ModelSpec, share_heads
from glinthawk.tier1.kv.head_split import HeadSplitHome
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.tier1.kv.token_split import RangeSplitHome
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.tier2.cache import KVCache
from glinthawk.wire.messages import Attend, Begin, BeginPart, Store

CPU = torch.device("cpu")
QUIET = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def _specs(draw: st.DrawFn, num_parts: int = 1) -> ModelSpec:
    """Layers that differ in everything but their KV heads' divisibility."""
    return _spec(*(draw(_layers(num_parts)) for _ in range(draw(st.integers(1, 3)))))


@st.composite
def _layers(draw: st.DrawFn, num_parts: int) -> AttentionLayer:
    kv_heads, group = num_parts * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads = kv_heads * group
    return AttentionLayer(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([5, 8, 16])),  # for 5 there are no kernels, but plain torch
        value_dim=draw(st.sampled_from([8, 16])),
        scaling=draw(st.sampled_from([0.1, 0.25])),
        window=draw(st.none() | st.sampled_from([1, 7, 32, 33, 70])),
        softcap=draw(st.none() | st.just(5.0)),
        sinks=draw(st.none() | st.just(tuple(0.5 * head - 1 for head in range(heads)))),
    )


def _spec(*layers: AttentionLayer) -> ModelSpec:
    return ModelSpec("none", "float32", 10, 512, layers)


def _memory(layers: tuple[AttentionLayer, ...], num_pages: int) -> int:
    return num_pages * BackendChoice(layers, "float32", CPU).page_bytes


def _opened(home: Any) -> Any:
    home.open("float32")
    home.await_open(1)
    return home


def _split_heads(spec: ModelSpec, num_parts: int, num_pages: int) -> HeadSplitHome:
    shares = [share_heads(spec.layers, part, num_parts) for part in range(num_parts)]
    channels = [DirectChannel(_memory(share, num_pages)) for share in shares]
    return _opened(HeadSplitHome(1, channels, spec, CPU))  # type: ignore[arg-type]


def _split_tokens(spec: ModelSpec, counts: list[int], stripe_pages: int) -> RangeSplitHome:
    channels = [DirectChannel(_memory(spec.layers, count)) for count in counts]
    return _opened(
        RangeSplitHome(1, channels, spec, CPU, stripe_pages=stripe_pages)  # type: ignore[arg-type]
    )


@dataclass
class Pair:
    """A home and a plain cache of as many pages, taking the same steps."""

    spec: ModelSpec
    home: Any
    num_pages: int
    #: What a scheduler would count; both must agree with it.
    pages: Pages = field(init=False)
    lengths: dict[int, int] = field(default_factory=dict)
    num_steps: int = 0

    def __post_init__(self) -> None:
        assert self.home.num_pages == self.num_pages
        memory = _memory(self.spec.layers, self.num_pages)
        self.plain = LocalHome(0, KVCache(self.spec.layers, memory, "float32", threads=1))
        self.pages = Pages(self.num_pages, PAGE_TOKENS)
        self.generator = torch.Generator().manual_seed(3)

    def span(self, number: int, start: int, length: int, source: int | None = None) -> Span | None:
        """A span for which there is room, counted as a scheduler does it."""
        if source is not None:
            self.pages.share(source, number, start)
        if not self.pages.grow(number, start + length):
            if source is not None or number not in self.lengths:
                self.pages.release(number)
            return None
        request = Request(number, (5,) * (start + length), SamplingParams(), 0, 8)
        return Span(Sequence(request), 1, start, length, source)

    def step(self, extends: list[Span], prompts: list[Span], depth: int | None = None) -> None:
        """All layers, or ``depth`` of them, after which the step is abandoned."""
        self.num_steps += 1
        for home in (self.home, self.plain):
            home.begin(self.num_steps, extends, prompts)
        for layer in range(len(self.spec.layers))[:depth]:
            self._compare(layer, sum(span.length for span in extends))
            self._store(layer, sum(span.length for span in prompts))
        if depth is None:
            self._end(extends, prompts)
        else:
            self._abandon(extends, prompts)

    def release(self, number: int) -> None:
        self.pages.release(number)
        del self.lengths[number]
        for home in (self.home, self.plain):
            home.release([number])

    def _end(self, extends: list[Span], prompts: list[Span]) -> None:
        for home in (self.home, self.plain):
            home.finish(self.num_steps)
        for span in extends + prompts:
            self.lengths[span.sequence.id] = span.start + span.length

    def _abandon(self, extends: list[Span], prompts: list[Span]) -> None:
        """Those that had begun before stay, the others are forgotten, as the scheduler does it."""
        new = [span.sequence.id for span in extends if span.source is not None]
        new += [span.sequence.id for span in prompts]
        for home in (self.home, self.plain):
            home.abandon(self.num_steps)
            home.release(new)
        for number in new:
            self.pages.release(number)
        assert self.home.receive() == []

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def _kv(self, index: int, rows: int) -> list[torch.Tensor]:
        layer = self.spec.layers[index]
        sizes = (layer.head_dim, layer.value_dim)
        return [self._random(rows, layer.num_kv_heads, size) for size in sizes]

    def _compare(self, index: int, rows: int) -> None:
        if not rows:
            return
        layer = self.spec.layers[index]
        q, kv = self._random(rows, layer.num_heads, layer.head_dim), self._kv(index, rows)
        assert self.home.attend(self.num_steps, index, q, *kv) is None
        (reply,) = self.home.receive()
        expected = self.plain.attend(self.num_steps, index, q, *kv)
        assert (reply.step, reply.output.dtype) == (self.num_steps, torch.float32)
        torch.testing.assert_close(reply.output, expected, atol=1e-5, rtol=1e-4)

    def _store(self, index: int, rows: int) -> None:
        if not rows:
            return
        kv = self._kv(index, rows)
        assert self.home.store(self.num_steps, index, *kv) is False
        self.plain.store(self.num_steps, index, *kv)
        is_last = index == len(self.spec.layers) - 1
        replies = [(reply.step, reply.output) for reply in self.home.receive()]
        assert replies == ([(self.num_steps, None)] if is_last else [])


def _walk(pair: Pair, data: st.DataObject) -> None:
    """Random steps: sequences begin, go on by one token or several, share, leave, are undone."""
    numbers = iter(range(1000))
    lengths = st.integers(1, 3 * PAGE_TOKENS)
    for _ in range(data.draw(st.integers(2, 6), "steps")):
        extends, prompts = [], []
        for number, length in list(pair.lengths.items()):
            if data.draw(st.integers(0, 3), "goes on"):
                new = data.draw(st.sampled_from([1, 1, 1, 2, 40]), "tokens")
                extends.append(pair.span(number, length, new))
        for source, length in list(pair.lengths.items()):
            if length >= PAGE_TOKENS and data.draw(st.integers(0, 2), "is shared") == 0:
                shared = PAGE_TOKENS * data.draw(st.integers(1, length // PAGE_TOKENS), "pages")
                new = data.draw(st.sampled_from([1, 3, 50]), "tokens")
                extends.append(pair.span(next(numbers), shared, new, source))
        for _ in range(data.draw(st.integers(0, 2), "prompts")):
            prompts.append(pair.span(next(numbers), 0, data.draw(lengths, "prompt")))
        spans = [s for s in extends if s], [s for s in prompts if s]
        if not any(spans):
            continue
        if data.draw(st.integers(0, 4), "is abandoned") == 0:
            before = {s.sequence.id for s in spans[0] if s.source is None}
            pair.step(*spans, depth=data.draw(st.integers(0, len(pair.spec.layers)), "depth"))
            again = [s for s in spans[0] if s.sequence.id in before]
            if again:
                pair.step(again, [])
        else:
            pair.step(*spans)
        for number in list(pair.lengths):
            if data.draw(st.integers(0, 4), "leaves") == 0:
                pair.release(number)


@QUIET
@given(st.integers(2, 3).flatmap(lambda n: st.tuples(st.just(n), _specs(n))), st.data())
def test_heads_shared_out_answer_as_one_cache(
    split: tuple[int, ModelSpec], data: st.DataObject
) -> None:
    num_parts, spec = split
    _walk(Pair(spec, _split_heads(spec, num_parts, 24), 24), data)


@QUIET
@given(
    _specs(),
    st.lists(st.integers(1, 12), min_size=2, max_size=4),
    st.integers(1, 3),
    st.data(),
)
def test_tokens_shared_out_answer_as_one_cache(
    spec: ModelSpec, counts: list[int], stripe_pages: int, data: st.DataObject
) -> None:
    """Memory is scarce and unequal: a page that is free at any worker is used."""
    home = _split_tokens(spec, counts, stripe_pages)
    _walk(Pair(spec, home, sum(counts)), data)
    home._stripes.validate()


PLAIN = AttentionLayer(4, 2, 8, 8, 0.3)
LOCAL = AttentionLayer(4, 2, 8, 8, 0.3, window=20)


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
    spec = _spec(LOCAL, PLAIN, LOCAL)
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
    spec = _spec(PLAIN)
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
    spec = _spec(PLAIN)
    home = _split_tokens(spec, [40, 40, 40], stripe_pages=4)
    _prefilled(home, spec, [100 * PAGE_TOKENS])
    held = [home._stripes.count(0, part, 100 * PAGE_TOKENS) for part in range(3)]
    assert max(held) - min(held) <= 4 * PAGE_TOKENS


def test_a_short_sequence_lies_at_one_worker_and_others_elsewhere() -> None:
    spec = _spec(PLAIN)
    home = _split_tokens(spec, [40, 40, 40], stripe_pages=4)
    _prefilled(home, spec, [3 * PAGE_TOKENS] * 3)
    assert sorted(home._stripes._owners.values()) == [[0] * 3, [1] * 3, [2] * 3]


def test_more_than_all_workers_hold_is_an_error() -> None:
    spec = _spec(PLAIN)
    home = _split_tokens(spec, [2, 2], stripe_pages=1)
    with pytest.raises(WireError, match="pre-empt"):
        _prefilled(home, spec, [4 * PAGE_TOKENS + 1])


def test_heads_that_do_not_divide_are_an_error_that_says_what_to_do() -> None:
    make: Callable[[], Any] = lambda: _split_heads(_spec(PLAIN), 3, 8)  # noqa: E731
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
    spec = _spec(PLAIN)
    channel = DirectChannel(_memory(spec.layers, 8))
    home = _opened(RemoteHome(1, channel, spec, CPU))  # type: ignore[arg-type]
    _prefilled(home, spec, [40])
    _decode(home, spec, 40)
    kinds = [type(message) for message in channel.sent[1:]]
    assert kinds == [Begin, Store, Begin, Attend]
    assert BeginPart not in kinds
