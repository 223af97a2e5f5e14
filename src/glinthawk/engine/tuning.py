"""How large batches are and how many are under way, from two seconds of measuring at start."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import inf
from operator import truediv

import torch
from transformers import PreTrainedModel

from glinthawk.core.config import ANSWER_S, Auto, EngineConfig
from glinthawk.core.spec import ModelSpec
from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits, batches_to_hide
from glinthawk.scheduler.step_cost import StepCost
from glinthawk.tier1.forward.cut import Passes
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.forward.packed_attention import PackedPrompts, agrees, find_packed_kernels
from glinthawk.tier1.forward.prompt_attention import PromptAttention, attend_prompts, random_rows
from glinthawk.tier1.kv.home import Home
from glinthawk.tier1.kv.link import Link
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier2.backends.native_prompts import PromptKernel

__all__ = [
    "Tuning",
    "choose_prompt_attention",
    "round_trip",
    "tune",
]

_log = logging.getLogger(__name__)

_BUDGET_S = 2.0
_FIRST_ROWS, _MOST_ROWS = 16, 1024
#: That are chosen at least: a step takes time beside its dense pass, which is all that is measured.
_LEAST_ROWS = 64
#: The batch where steps are so slow that time ran out before larger ones stopped to pay.
_UNMEASURED_ROWS = 256
#: Steps run for one figure; the first does not count.
_STEPS = 3
#: A batch twice as large must be faster by this much, in tokens a second, to be worth its memory.
_WORTH = 1.08
#: Small steps differ by little, so each is measured so many times, where they are fast.
_DRAFT_ROUNDS = 12
#: Sizes one after the other that do not pay, after which no larger one is tried.
_MOST_MISSES = 2
_LINK_TRIES = 5
_PROMPT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found and what follows from it."""

    limits: BatchLimits
    #: What steps and links take, where the scheduler may decide by it.
    step_cost: StepCost | None = None


def tune(
    config: EngineConfig, loaded: LoadedModel, homes: Sequence[Home], passes: Passes | None = None
) -> Tuning:
    """Limits of the scheduler: what the user said, and measured numbers for what is ``auto``.

    How many batches are in flight decides what workers are worth beside KV on Tier 1, so who says
    how many also says that workers are used whenever Tier 1 is full: then there is no step cost.
    """
    remote = [home for home in homes if home.links]
    has_workers = bool(remote) or config.joiners is not None
    size, in_flight, step_cost = config.batch_size, config.batches_in_flight, None
    measure = partial(_step_seconds, loaded, passes)
    links = (
        _link_seconds(loaded, remote) if {"auto"} & {size, in_flight, config.speculation} else {}
    )
    if size == "auto" or (in_flight == "auto" and has_workers):
        size, dense = _grow_batch(measure, size, config.batch_tokens)
        step_cost = StepCost(dense, {}, links)
    if in_flight != "auto":
        step_cost = None
    elif step_cost is not None and has_workers:
        in_flight = batches_to_hide(max(links.values(), default=0.0), step_cost.dense_s(size))
    else:
        in_flight = 1
    limits = BatchLimits(size, in_flight, config.batch_tokens, rope=loaded.spec.rope)
    most_s = max(links.values(), default=0.0)
    return Tuning(replace(limits, drafts=_limit_drafts(config, measure, size, most_s)), step_cost)


def _limit_drafts(
    config: EngineConfig, measure: Callable[[int], float], size: int, link_s: float
) -> DraftLimits | None:
    """For batches of ``size``; measured are steps of as many rows as they and their drafts have."""
    most = config.num_speculative_tokens
    if config.speculation != "auto":
        return None if config.speculation == "off" else DraftLimits(most)
    most_rows = min(size * (1 + most), config.batch_tokens)
    return DraftLimits(most, _measure_curve(measure, most_rows), link_s)


def _measure_curve(
    measure: Callable[[int], float], most_rows: int
) -> tuple[tuple[int, float], ...]:
    """(rows, seconds) of steps of up to ``most_rows``, or as far as time allows. All are measured
    in turn, again and again: what slows this machine for a while shall not change their ratios.
    None takes longer than one of more rows."""
    deadline = time.monotonic() + _BUDGET_S
    sizes = [1]
    while sizes[-1] < most_rows:
        sizes.append(min(2 * sizes[-1], most_rows))
    found: dict[int, float] = {}
    for round_number in range(_DRAFT_ROUNDS):
        for rows in sizes if round_number == 0 else list(found):
            if found and time.monotonic() > deadline:
                break
            found[rows] = min(found.get(rows, inf), measure(rows))
    return _no_slower_than_larger(found)


def _link_seconds(loaded: LoadedModel, remote: Sequence[Home]) -> dict[int, float]:
    """To each worker and back, over all layers."""
    num_layers = len(loaded.spec.layers)
    return {home.id: num_layers * max(map(round_trip, home.links)) for home in remote}


def choose_prompt_attention(loaded: LoadedModel) -> PromptAttention:
    """For whole prompts on a GPU, flash attention over packed rows where it works; on a CPU,
    torch's attention or our kernels, whichever is faster here."""
    spec, model = loaded.spec, loaded.model
    if model.device.type == "cuda":
        return _choose_packed(spec, model)
    # In float32 torch's products are as good as any, and nobody is in a hurry there.
    if spec.dtype == "float32" or not PromptKernel.takes(spec.layers, spec.dtype, model.device):
        return attend_prompts
    kernel = PromptKernel(spec.layers, spec.dtype, torch.get_num_threads())
    choices: tuple[PromptAttention, ...] = (kernel, attend_prompts)
    return min(choices, key=lambda attend: _attention_seconds(attend, loaded))


def _choose_packed(spec: ModelSpec, model: PreTrainedModel) -> PromptAttention:
    for name, kernel in find_packed_kernels(model.device, model.dtype).items():
        packed = PackedPrompts(kernel)
        if agrees(packed, spec.layers, model.dtype, model.device):
            _log.info("prompts are attended by %s", name)
            return packed
    _log.warning(
        "prompts are attended in groups of like length: flash attention does not work here"
    )
    return attend_prompts


@torch.inference_mode()
def _attention_seconds(attend: PromptAttention, loaded: LoadedModel) -> float:
    layer = loaded.spec.layers[0]
    lengths = [min(_PROMPT_TOKENS, loaded.spec.max_model_len)] * 2
    q, k, v = random_rows(layer, sum(lengths), loaded.model.dtype)
    times = []
    for _ in range(_STEPS):
        begun = time.perf_counter()
        attend(q, k, v, lengths, layer)
        times.append(time.perf_counter() - begun)
    return min(times)


def _grow_batch(
    measure: Callable[[int], float], wish: int | Auto, batch_tokens: int
) -> tuple[int, tuple[tuple[int, float], ...]]:
    """Double the batch while that pays, or up to what the user wants: its size, and the (rows,
    seconds) that ``measure`` found. One row comes first; it says what reading the weights takes.

    What else the machine does makes a step look slow, never fast. So it takes two sizes that do not
    pay to end the search, and no step is taken to be slower than one of more rows. Where time runs
    out before, nobody knows."""
    deadline = time.monotonic() + _BUDGET_S
    most = min(_MOST_ROWS if wish == "auto" else wish, batch_tokens)
    found = {1: measure(1)}
    rows, in_time, misses = 1, True, 0
    while rows < most and in_time and misses < _MOST_MISSES:
        best = max(map(truediv, found.keys(), found.values()))
        rows = min(most, max(_FIRST_ROWS, 2 * rows))
        found[rows] = measure(rows)
        pays = wish != "auto" or rows / found[rows] > _WORTH * best
        misses = 0 if pays else misses + 1
        in_time = time.monotonic() + 2 * _STEPS * found[rows] < deadline
    curve = _no_slower_than_larger(found)
    if wish != "auto":
        return most, curve
    if not in_time and not misses:
        return max(rows, min(_UNMEASURED_ROWS, most)), curve
    best = max(rows / seconds for rows, seconds in curve)
    sizes = [rows for rows, seconds in curve if _WORTH * rows / seconds >= best]
    return max(sizes[0], min(_LEAST_ROWS, most)), curve


def _no_slower_than_larger(found: dict[int, float]) -> tuple[tuple[int, float], ...]:
    """(rows, seconds) by rows, where what more rows took is more than enough for fewer."""
    fastest = [*accumulate(reversed(found.values()), min)]
    return tuple(zip(found, reversed(fastest), strict=True))


def _step_seconds(loaded: LoadedModel, passes: Passes | None, rows: int) -> float:
    receives = not loaded.part.is_first
    step = DensePass(loaded.model, loaded.spec.layers, rows, passes, receives)
    step.seconds()  # memory is taken and code is warm
    return min(step.seconds() for _ in range(_STEPS - 1))


def round_trip(link: Link) -> float:
    """Median seconds from a question to its answer."""
    times = []
    for _ in range(_LINK_TRIES):
        begun = time.perf_counter()
        link.ask(ANSWER_S)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
