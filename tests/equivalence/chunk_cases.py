"""Prompts that are prefilled in chunks, and a check that they were."""

from typing import Any

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.engine.run import Run
from model_cases import NUM_SHORT, Case

__all__ = ["BEYOND_PROMPTS", "check_chunks", "make_prompts"]

#: Tokens of a long answer where it is prompts that matter.
BEYOND_PROMPTS = 12


def _tokens(length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 200, (length,), generator=generator).tolist())


def make_prompts(*lengths: int) -> list[tuple[int, ...]]:
    """Short ones, whose answers are short, then such lengths, then two that begin alike."""
    short = [_tokens(1 + number, number) for number in range(NUM_SHORT)]
    long = [_tokens(length, 100 + number) for number, length in enumerate(lengths)]
    common = _tokens(3 * PAGE_TOKENS, 99)
    return [*short, *long, common + _tokens(70, 98), common + _tokens(5, 97)]


def check_chunks(case: Case, run: Run, chunk: int) -> None:
    """The run answers as the model does, and prefills in chunks of at most ``chunk`` tokens."""
    chunks: list[int] = []
    start = run.tier1.start

    def counting(batch: Any) -> None:
        chunks.extend(span.length for span in batch.spans if not span.num_sampled)
        start(batch)

    run.tier1.start = counting  # type: ignore[method-assign]
    answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    run.engine.scheduler.validate()
    assert answers == case.expected()
    assert chunks
    assert max(chunks) <= chunk
