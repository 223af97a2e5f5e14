"""What a step comes to: tokens that follow, and scores of tokens that prompts have."""

from typing import NamedTuple

import torch

from glinthawk.core.batch import Batch
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.tier1.sampler import Sampled, sample_batch
from glinthawk.tier1.sampling.scoring import score_spans
from glinthawk.tier1.sampling.token_masks import TokenMasks

__all__ = ["StepResult", "take_result"]


class StepResult(NamedTuple):
    """Of a batch."""

    #: Tokens that follow every span.
    sampled: list[tuple[Sampled, ...]]
    #: Of those spans, in order, of which rows are scored.
    scores: list[PromptScores]


def take_result(batch: Batch, logits: torch.Tensor, masks: TokenMasks | None = None) -> StepResult:
    """``logits`` (R, V) are those of the rows of ``batch`` that are kept. As ``sample_batch``."""
    spans = [span for span in batch.spans if span.num_scored]
    if not spans:
        return StepResult(sample_batch(batch, logits, masks), [])
    sampled: list[int] = []
    scored: list[range] = []
    first = 0
    for span in batch.spans:
        # Of a prompt no row behind the last but one is scored, and none before the last sampled.
        middle = first + span.num_scored
        scored += [range(first, middle)] if span.num_scored else []
        sampled += range(middle, middle + span.num_sampled)
        first = middle + span.num_sampled
    scores = score_spans(spans, logits, scored)
    return StepResult(sample_batch(batch, logits[sampled], masks), scores)
