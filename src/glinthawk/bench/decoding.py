"""Batches that decode in steady state: what the benchmarks of two tiers have in common."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.kv.home import Home
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.node import Node
from glinthawk.tier1.sampler import sample_batch

__all__ = ["Decoding", "choice_rules", "dense_seconds"]

_FILL_S = 600.0
#: How long to wait for one link's news before looking at the others.
_LOOK_S = 0.05


def choice_rules(sampled: bool, **others: Any) -> SamplingParams:
    """How tokens are chosen: the likeliest, or as in most jobs."""
    temperature, top_p = (0.8, 0.95) if sampled else (0.0, 1.0)
    return SamplingParams(temperature=temperature, top_p=top_p, **others)


def dense_seconds(loaded: LoadedModel, rows: int) -> float:
    """Seconds of a dense step: the better one of two."""
    return min(DensePass(loaded.model, loaded.spec.layers, rows).seconds() for _ in range(2))


@dataclass
class Decoding:
    """Batches that step again as soon as they are done, over KV of random values.

    Each step writes the same position again, so that the context stays what it is.
    """

    loaded: LoadedModel
    home: Home
    context: int
    #: Sequences of each batch.
    sizes: list[int]
    #: Whether tokens are drawn with top-p; else the likeliest are taken.
    sampled: bool = False
    total_tokens: int = 0
    total_s: float = 0.0
    #: In the last window.
    tier1_busy: float = 0.0
    #: Tier 1's time to send the context away.
    fill_s: float = 0.0
    _groups: list[list[Sequence]] = field(default_factory=list)
    #: When each batch ended its steps.
    _ends: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = iter(range(sum(self.sizes)))
        prompt = tuple(5 + i % 1000 for i in range(self.context))
        params = choice_rules(self.sampled)
        self._groups = [
            [Sequence(Request(next(numbers), prompt, params, 0, 1 << 20)) for _ in range(size)]
            for size in self.sizes
        ]
        self._fill()
        self._node = Node(
            self.loaded.model,
            self.loaded.spec.layers,
            [self.home],
            lambda batch, logits, _: sample_batch(batch, logits),
        )

    @torch.inference_mode()
    def _fill(self) -> None:
        """Random keys and values, the same for every sequence: attention does not care."""
        layers = self.loaded.spec.layers
        dtype = self.loaded.model.dtype
        kv = [
            tuple(
                torch.randn(self.context, layer.num_kv_heads, size).to(dtype)
                for size in (layer.head_dim, layer.value_dim)
            )
            for layer in layers[:1]
        ] * len(layers)
        begun = time.perf_counter()
        for sequence in (s for group in self._groups for s in group):
            self.home.begin(sequence.id, [], [Span(sequence, self.home.id, 0, self.context)])
            for index, (k, v) in enumerate(kv):
                self._await_room()
                self.home.store(sequence.id, index, k, v)
            self.home.finish(sequence.id)
            sequence.output.append(7)
        self.fill_s = time.perf_counter() - begun
        for link in self.home.links:
            link.ask(_FILL_S)

    def _await_room(self) -> None:
        while self.home.is_full:
            for link in self.home.links:
                link.channel.wait(_LOOK_S)
            self.home.flush()
            self.home.receive()

    @property
    def busy_s(self) -> float:
        """Of Tier 1, in all steps so far."""
        return self._node.busy_s

    def speed(self, seconds: float, steps: int, batches: int | None = None) -> float:
        """Tokens a second with the first ``batches`` under way (None: all): for ``seconds`` at
        least and ``steps`` steps of each, after one that does not count.

        Each batch is measured from the end of one of its steps to the end of another, so that no
        window cuts a step in two.
        """
        begun = time.perf_counter()
        self._ends = [[] for _ in self._groups[:batches]]
        for index in range(len(self._ends)):
            self._start(index)
        self._run(lambda: min(map(len, self._ends)) > 0)
        busy, window = self._node.busy_s, time.perf_counter()

        def is_enough() -> bool:
            is_long = time.perf_counter() - window >= seconds
            return is_long and min(map(len, self._ends)) > steps

        self._run(is_enough)
        self.tier1_busy = (self._node.busy_s - busy) / (time.perf_counter() - window)
        while self._node.num_running:
            self._poll()
        self.total_s += time.perf_counter() - begun
        return sum(map(_rate, self.sizes, self._ends))

    def _start(self, index: int) -> None:
        """Step a group; a batch has the number of its group."""
        spans = tuple(Span(s, self.home.id, s.length - 1, 1) for s in self._groups[index])
        self._node.start(Batch(index, spans, ()))

    def _run(self, enough: Callable[[], bool]) -> None:
        while not enough():
            for index in self._poll():
                self._start(index)

    def _poll(self) -> list[int]:
        """Batches that have ended a step."""
        done = [batch for batch, _ in self._node.poll()]
        for batch in done:
            self._ends[batch.id].append(time.perf_counter())
            self.total_tokens += len(batch.extends)
        return [batch.id for batch in done]


def _rate(size: int, ends: list[float]) -> float:
    """Tokens a second of a batch of ``size`` that ended its steps at ``ends``."""
    return size * (len(ends) - 1) / (ends[-1] - ends[0])
