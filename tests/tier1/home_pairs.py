"""A home beside one plain cache that takes the same steps."""

from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from glinthawk.core.batch import Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.pages import Pages
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.core.spec import AttentionLayer, ModelSpec
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.tier2.cache import KVCache

__all__ = [
    "CPU",
    "LOCAL",
    "PLAIN",
    "QUIET",
    "Pair",
    "make_spec",
    "memory_of",
    "opened",
    "specs",
    "walk",
]

CPU = torch.device("cpu")
QUIET = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def specs(draw: st.DrawFn, num_parts: int = 1) -> ModelSpec:
    """Layers that differ in everything but their KV heads' divisibility."""
    return make_spec(*(draw(_layers(num_parts)) for _ in range(draw(st.integers(1, 3)))))


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


def make_spec(*layers: AttentionLayer) -> ModelSpec:
    return ModelSpec("none", "float32", 10, 512, layers)


def memory_of(layers: tuple[AttentionLayer, ...], num_pages: int) -> int:
    return num_pages * BackendChoice(layers, "float32", CPU).page_bytes


def opened(home: Any) -> Any:
    home.open("float32")
    home.await_open(1)
    return home


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
        memory = memory_of(self.spec.layers, self.num_pages)
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


def walk(pair: Pair, data: st.DataObject) -> None:
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


PLAIN = AttentionLayer(4, 2, 8, 8, 0.3)
LOCAL = AttentionLayer(4, 2, 8, 8, 0.3, window=20)
