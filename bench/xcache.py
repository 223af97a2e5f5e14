"""The X-cache measured: what a worker is spared, and how fast Tier 1 makes up for it.

``measure_rebuild`` is Tier 1's part of one layer, ``measure_share`` a whole job with one worker;
both return their numbers. ``run`` shows them for the shapes of OPT.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from glinthawk.bench.random_models import load_shape, write_shape
from glinthawk.bench.timing import medians
from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.pages import Pages
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import open_run
from glinthawk.tier1.forward.packing import PackedLinear
from glinthawk.tier1.kv.token_sharding import Rows, Share
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.store import XCache
from glinthawk.tier1.xcache.visible_tokens import PIECE_TOKENS
from glinthawk.wire.messages import View

__all__ = ["RebuildSpeed", "ShareNumbers", "XCachePlan", "measure_rebuild", "measure_share", "run"]


@dataclass(frozen=True, slots=True)
class XCachePlan:
    """Jobs of ``sequences`` with prompts of ``context`` tokens, for each share of X."""

    models: tuple[str, ...] = ("O", "P")
    context: int = 512
    #: Sequences of the one layer whose K and V are rebuilt.
    rebuilt: int = 64
    sequences: int = 32
    answer: int = 32
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)

    @classmethod
    def quick(cls) -> "XCachePlan":
        """A look in a minute."""
        return cls(("O",), context=128, rebuilt=8, sequences=4, answer=8, alphas=(0.0, 0.5))


@dataclass(frozen=True, slots=True)
class RebuildSpeed:
    """One layer of one step on Tier 1: ``sequences`` rows that each see ``context`` tokens of X."""

    sequences: int
    context: int
    #: Whether K and V were not rebuilt, but their projections applied to queries and answers.
    is_absorbed: bool
    #: Tokens attended in a second.
    tokens_per_s: float
    #: Arithmetic over tokens in a second: of the projections, or of attention to X itself; and that
    #: of the projections alone, as one packed product.
    tflops: float
    roof_tflops: float
    #: Bytes of K and V that a worker would have read for as much, in a second.
    kv_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class ShareNumbers:
    """A job whose answers are of one length, at one worker."""

    alpha: float
    tokens_per_s: float
    #: Most K and V that the worker held: what it reads for one more token of each sequence, if all
    #: are there. Most X that Tier 1 held.
    kv_bytes_peak: int
    x_bytes_peak: int
    tier1_busy: float
    tier2_busy: float


@torch.inference_mode()
def measure_rebuild(
    loaded: LoadedModel, sequences: int, context: int, *, absorbs: bool = True, rounds: int = 5
) -> RebuildSpeed:
    """Medians of ``rounds`` on as many threads as torch has. Without ``absorbs``, K and V are
    rebuilt even where they need not be."""
    cache = _Filled(loaded, sequences, context, absorbs)
    layer, hidden = loaded.spec.layers[0], loaded.hidden_size
    product = PackedLinear(nn.Linear(hidden, layer.kv_elements, dtype=torch.bfloat16))
    x = torch.randn(PIECE_TOKENS, hidden).bfloat16()
    seconds, alone = medians(rounds, cache, lambda: product(x))
    flops = 4 * hidden * layer.num_heads if cache.is_absorbed else 2 * hidden * layer.kv_elements
    speed = cache.num_tokens / seconds
    return RebuildSpeed(
        sequences,
        context,
        cache.is_absorbed,
        tokens_per_s=speed,
        tflops=speed * flops / 1e12,
        roof_tflops=2 * x.numel() * layer.kv_elements / alone / 1e12,
        kv_bytes_per_s=speed * layer.kv_elements * loaded.model.dtype.itemsize,
    )


def run(write: Callable[[str], None], *, quick: bool = False) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    plan = XCachePlan.quick() if quick else XCachePlan()
    rebuilt, shares = [], []
    for name in plan.models:
        loaded = load_shape(name)
        for absorbs in (False, True):
            speed = measure_rebuild(loaded, plan.rebuilt, plan.context, absorbs=absorbs)
            rebuilt.append({"model": name, **asdict(speed)})
            write(str(rebuilt[-1]))
        for alpha in plan.alphas:
            share = measure_share(name, alpha, plan.sequences, plan.context, plan.answer)
            shares.append({"model": name, **asdict(share)})
            write(str(shares[-1]))
    write(json.dumps({"rebuilt": rebuilt, "shares": shares}))


def measure_share(
    model: str,
    alpha: float,
    sequences: int,
    prompt_tokens: int,
    answer_tokens: int,
    worker_kv: str = "1GiB",
) -> ShareNumbers:
    """Run ``sequences`` that all fit at once through a shape of ``random_models.py``."""
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig(
            model=str(write_shape(Path(folder), model)),
            load_format="dummy",
            tier2=("local:1",),
            worker_kv=worker_kv,
            xcache=alpha,
            batch_size=max(1, sequences // 2),
            batches_in_flight=2,
        )
        return _run(config, sequences, prompt_tokens, answer_tokens)


def _run(config: EngineConfig, sequences: int, prompt: int, answer: int) -> ShareNumbers:
    params = SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True)
    prompts = [tuple(5 + (7 * i + n) % 1000 for i in range(prompt)) for n in range(sequences)]
    requests = [Request(n, tokens, params, 0, answer) for n, tokens in enumerate(prompts)]
    with open_run(config) as run:
        count = sum(len(sequence.output) for sequence in run.engine.generate(requests))
        stats = run.stats()
    return ShareNumbers(
        config.xcache,
        tokens_per_s=count / stats.seconds,
        kv_bytes_peak=stats.kv_bytes_peak,
        x_bytes_peak=stats.xcache_bytes_peak,
        tier1_busy=stats.tier1_busy,
        tier2_busy=stats.tier2_busy[0],
    )


class _Filled:
    """An X-cache of random X, and a step over all of it: its first layer."""

    def __init__(self, loaded: LoadedModel, sequences: int, context: int, absorbs: bool) -> None:
        rebuild = learn_rebuild(loaded.model, loaded.spec)
        self.is_absorbed = absorbs and rebuild.absorbed(0) is not None
        each = -(-context // PAGE_TOKENS)
        pages = Pages(sequences * each, PAGE_TOKENS)
        for number in range(sequences):
            assert pages.grow(number, context)
        device = loaded.model.device
        self._cache = XCache(rebuild, loaded.spec, pages, device, absorbs)
        self._cache.fill()
        numbers = list(range(sequences))
        view = View(numbers, [0] * sequences, [context] * sequences)
        share = Share([view], [numbers])
        self._cache.begin(0, share, Rows.upload(share, sequences, 0, device))
        layer = loaded.spec.layers[0]
        self._queries = torch.randn(sequences, layer.num_heads, layer.head_dim)
        self._queries = self._queries.to(device, loaded.model.dtype)
        self.num_tokens = sequences * context

    def __call__(self) -> None:
        self._cache.ask(0, 0, self._queries)
        assert self._cache.answer(0, 0) is not None
