"""Prompt lookup against one token a step, on one tier: off, on and auto alternate.

The weights are random, and the answers are given: what a model of this size takes for them is
measured, not how often some model repeats itself. *Summaries* are quotations of 8 to 32 tokens of
the prompt, each behind two tokens that are not in it. In *new* answers nothing repeats.
*Misleading* ones are random, of so few tokens that there is always something to guess, and it is
wrong.
"""

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import get_args

import torch

from glinthawk.bench.random_models import SHAPES, load_shape
from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import EngineConfig, SpeculationMode
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.node_opening import open_node
from glinthawk.engine.run import Run, run_on
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.sampler import Sampled

__all__ = ["LookupPlan", "LookupRow", "run"]

_Write = Callable[[str], None]
_MODES: tuple[SpeculationMode, ...] = get_args(SpeculationMode)
_KINDS = ("summaries", "new", "misleading")
#: Tokens that misleading answers are made of.
_FEW = 20
_PARAMS = SamplingParams(temperature=0, max_tokens=None)


@dataclass(frozen=True, slots=True)
class LookupPlan:
    """Jobs of as many requests as a batch has; medians of ``rounds``."""

    shape: str = "M"
    prompt: int = 384
    answer: int = 128
    batches: tuple[int, ...] = (1, 4, 16, 64)
    rounds: int = 5

    @classmethod
    def quick(cls) -> "LookupPlan":
        """A look in a minute."""
        return cls(shape="S", prompt=128, answer=48, batches=(1, 16), rounds=3)


@dataclass(frozen=True, slots=True)
class LookupRow:
    """Answer tokens a second of whole jobs, and what of the drafts was right in the last."""

    answers: str
    batch: int
    tokens_per_second: dict[str, float]
    #: Over that without speculation, round by round.
    speedup: dict[str, float]
    drafted_share: dict[str, float]
    accepted_share: dict[str, float]


class _Answers:
    """What is asked, and what is answered."""

    def __init__(self, plan: LookupPlan, kind: str, count: int) -> None:
        dice = random.Random(f"{kind} {count}")
        vocab = SHAPES[plan.shape]["vocab_size"]
        tokens = range(3, 3 + (_FEW if kind == "misleading" else vocab - 3))
        self.prompts = [tuple(dice.choices(tokens, k=plan.prompt)) for _ in range(count)]
        self._answers = [
            _summarise(prompt, plan.answer, vocab, dice)
            if kind == "summaries"
            else dice.choices(tokens, k=plan.answer)
            for prompt in self.prompts
        ]

    def requests(self) -> Iterator[Request]:
        for number, prompt in enumerate(self.prompts):
            yield Request(number, prompt, _PARAMS, 0, len(self._answers[number]))

    def follow(self, span: Span) -> tuple[Sampled, ...]:
        """In place of what the model's logits say."""
        said = len(span.sequence.output)
        truth = self._answers[span.sequence.request.id][said : said + span.num_sampled]
        right = 0
        while right < len(span.draft) and truth[right : right + 1] == [span.draft[right]]:
            right += 1
        return tuple(map(Sampled, truth[: right + 1]))


def _summarise(prompt: tuple[int, ...], length: int, vocab: int, dice: random.Random) -> list[int]:
    answer: list[int] = []
    while len(answer) < length:
        begin = dice.randrange(len(prompt) - 32)
        answer += dice.choices(range(3, vocab), k=2)
        answer += prompt[begin : begin + dice.randint(8, 32)]
    return answer[:length]


def run(write: _Write, *, quick: bool = False, plan: LookupPlan | None = None) -> list[LookupRow]:
    """Measure, write a line for each, then one of JSON."""
    plan = plan or (LookupPlan.quick() if quick else LookupPlan())
    loaded = load_shape(plan.shape)
    write(f"shape {plan.shape}, prompts of {plan.prompt} tokens, answers of {plan.answer}")
    rows = []
    for kind in _KINDS:
        for batch in plan.batches:
            rows.append(_measure(plan, loaded, kind, batch))
            write(_line(rows[-1]))
    write(json.dumps({"bench": "lookup", "plan": asdict(plan), "rows": list(map(asdict, rows))}))
    return rows


def _measure(plan: LookupPlan, loaded: LoadedModel, kind: str, batch: int) -> LookupRow:
    answers = _Answers(plan, kind, batch)
    num_tokens = plan.answer * len(answers.prompts)

    def sample(
        step: Batch, logits: torch.Tensor, _: torch.Tensor | None
    ) -> list[tuple[Sampled, ...]]:
        logits.argmax(dim=-1)  # as greedy rows would be
        return [answers.follow(span) if span.num_sampled else () for span in step.spans]

    seconds: dict[str, list[float]] = {mode: [] for mode in _MODES}
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        for mode in _MODES:
            config = EngineConfig(
                model="random weights", batch_size=batch, tier1_kv="512MiB", speculation=mode
            )
            opened = stack.enter_context(open_node(config, sample=sample, loaded=loaded))
            runs[mode] = run_on(config, opened)
        for number in range(plan.rounds + 1):
            for mode in _MODES:
                begun = time.perf_counter()
                finished = list(runs[mode].engine.generate(answers.requests()))
                assert sum(len(one.output) for one in finished) == num_tokens
                if number:  # the first round makes all warm
                    seconds[mode].append(time.perf_counter() - begun)
        counts = {mode: runs[mode].engine.scheduler.counts for mode in _MODES}
    total = num_tokens * (plan.rounds + 1)
    off = seconds["off"]
    return LookupRow(
        kind,
        batch,
        {mode: num_tokens / statistics.median(seconds[mode]) for mode in _MODES},
        {
            mode: statistics.median(a / b for a, b in zip(off, seconds[mode], strict=True))
            for mode in _MODES
        },
        {mode: one.drafted_tokens / total for mode, one in counts.items()},
        {mode: one.accepted_tokens / max(1, one.drafted_tokens) for mode, one in counts.items()},
    )


def _line(row: LookupRow) -> str:
    modes = [
        f"{mode} {row.tokens_per_second[mode]:,.0f} tokens/s ({row.speedup[mode]:.2f}x, "
        f"{row.accepted_share[mode]:.0%} right)"
        for mode in _MODES
    ]
    return f"{row.answers}, batch {row.batch}: {'; '.join(modes)}"
