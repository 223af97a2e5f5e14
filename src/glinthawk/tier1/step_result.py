"""What a step comes to: tokens that follow, scores of tokens that prompts have, pooled states."""

from typing import NamedTuple

import torch

from glinthawk.core.batch import Batch
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.tier1.pooled_states import pool_batch
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
    #: Of those spans, in order, of which rows are pooled: float64, see ``tier1/pooled_states.py``.
    pooled: list[bytes]


def take_result(
    batch: Batch,
    logits: torch.Tensor,
    states: torch.Tensor | None = None,
    masks: TokenMasks | None = None,
    head: torch.nn.Module | None = None,
) -> StepResult:
    """``logits`` (R, V) are those of the rows of ``batch`` that are kept, ``states`` (P, hidden) of
    those that are pooled; ``head`` is a classifier's. ``masks`` as ``sample_batch`` takes them."""
    spans = [span for span in batch.spans if span.num_scored]
    judged = [span for span in batch.spans if span.is_judged]
    if not spans and not judged:
        pooled = pool_batch(batch, states, logits[:0], head)
        return StepResult(sample_batch(batch, logits, masks), [], pooled)
    rows = _rows_by_use(batch)
    return StepResult(
        sample_batch(batch, logits[rows.sampled], masks),
        score_spans(spans, logits, rows.scored) if spans else [],
        pool_batch(batch, states, logits[rows.judged], head),
    )


class _Rows(NamedTuple):
    """Of the logits of a batch."""

    sampled: list[int]
    scored: list[range]
    judged: list[int]


def _rows_by_use(batch: Batch) -> _Rows:
    sampled: list[int] = []
    scored: list[range] = []
    judged: list[int] = []
    first = 0
    for span in batch.spans:
        # Of a prompt no row behind the last but one is scored, and none before the last sampled.
        middle = first + span.num_scored
        scored += [range(first, middle)] if span.num_scored else []
        first = middle + span.num_sampled
        sampled += range(middle, first)
        if span.is_judged:
            judged.append(first)
            first += 1
    return _Rows(sampled, scored, judged)
