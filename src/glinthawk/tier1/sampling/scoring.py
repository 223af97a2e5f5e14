"""Scores of the tokens of prompts, all at once; plainly: ``sampling_reference.score_token``."""

from collections.abc import Sequence as Many

import numpy as np
import torch

from glinthawk.core.batch import Span
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.tier1.sampling.ranking import rank_columns

__all__ = ["score_spans"]


def score_spans(spans: Many[Span], logits: torch.Tensor, rows: Many[range]) -> list[PromptScores]:
    """Of each of ``spans``, whose scored rows' logits are those of ``rows`` of ``logits`` (R, V):
    what the model's own distribution says of the tokens that follow them."""
    places = [row for part in rows for row in part]
    tokens = [token for span in spans for token in _next_tokens(span)]
    counts = [min(_num_top(span), logits.shape[1]) for span in spans]
    chosen, ids, values, ranks = rank_columns(logits, places, tokens, max(counts))
    scores, first = [], 0
    for part, count in zip(rows, counts, strict=True):
        here, first = slice(first, first + len(part)), first + len(part)
        scores.append(
            PromptScores(
                count,
                chosen[here].astype(np.float32).tobytes(),
                ranks[here].astype(np.int32).tobytes(),
                ids[here, :count].astype(np.int32).tobytes(),
                values[here, :count].astype(np.float32).tobytes(),
            )
        )
    return scores


def _next_tokens(span: Span) -> tuple[int, ...]:
    return span.sequence.request.prompt[span.scored.start + 1 : span.scored.stop + 1]


def _num_top(span: Span) -> int:
    return span.sequence.request.params.prompt_logprobs or 0
