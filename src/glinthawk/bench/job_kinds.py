"""Jobs as people have them: lengths of prompts and answers, and too little KV memory for them."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["JOB_KINDS", "JobKind", "KindName", "Layout", "Lengths", "make_prompt"]

KindName = Literal["even", "summaries", "reasoning", "chat"]
#: Prompt and answer of a request, in tokens, by its number.
Lengths = Callable[[int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where KV lies and who computes."""

    name: str
    cores: int = 1
    tier1_kv: bool = True
    worker: bool = False
    #: Each way to the worker.
    link_s: float = 0.0
    #: Of the job's requests, this share is run: where all take one speed, few say it.
    share: float = 1.0


_ONE_OR_TWO = (
    Layout("single_same_core", share=1 / 6),
    Layout("single_both_cores", cores=2, share=1 / 6),
    Layout("two_tier", tier1_kv=False, worker=True),
    Layout("hybrid", worker=True),
)


@dataclass(frozen=True, slots=True)
class JobKind:
    """Tier 1 has KV memory for ``capped`` sequences of ``longest`` tokens, and none has more."""

    model: str
    requests: int
    lengths: Lengths
    longest: int
    capped: int
    layouts: tuple[Layout, ...] = _ONE_OR_TWO


def make_prompt(number: int, length: int) -> tuple[int, ...]:
    """Token ids; requests of other numbers share no prefix with it."""
    return tuple((7 * number + 11 * i + number * i) % 1000 + 5 for i in range(length))


def _always(prompt: int, new: int) -> Lengths:
    return lambda _: (prompt, new)


def _chat(number: int) -> tuple[int, int]:
    """Log-normal, with the means that the paper of vLLM (arXiv 2309.06180) gives for ShareGPT: 161
    tokens of prompt, 338 of answer; none longer than 1,024."""
    draw, spread = random.Random(number), 1.0

    def length(mean: float) -> int:
        drawn = draw.lognormvariate(math.log(mean) - spread**2 / 2, spread)
        return max(4, min(1024, round(drawn)))

    return length(161), length(338)


JOB_KINDS: dict[KindName, JobKind] = {
    "even": JobKind(
        "L",
        1024,
        _always(32, 224),
        32 + 224,
        8,
        (
            Layout("single_same_core", share=1 / 32),
            Layout("single_both_cores", cores=2, share=1 / 32),
            Layout("two_tier", tier1_kv=False, worker=True),
            Layout("hybrid", worker=True),
            Layout("hybrid_far", worker=True, link_s=0.5, share=1 / 32),
        ),
    ),
    "summaries": JobKind("M", 24, _always(2000, 300), 2300, 2),
    "reasoning": JobKind("M", 24, _always(500, 1500), 2000, 2),
    "chat": JobKind("M", 96, _chat, 2048, 2),
}
assert set(JOB_KINDS) == set(get_args(KindName))
