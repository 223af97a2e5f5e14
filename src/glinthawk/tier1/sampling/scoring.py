"""Scores of the tokens of prompts, all at once; plainly: ``sampling_reference.score_token``."""

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.core.batch import Span
from glinthawk.core.prompt_scores import PromptScores
from glinthawk.tier1.sampling.draws import rows_at_once
from glinthawk.tier1.sampling.ranking import rank_columns

__all__ = ["score_spans"]


def score_spans(spans: Many[Span], logits: torch.Tensor, rows: Many[range]) -> list[PromptScores]:
    """Of each of ``spans``, whose scored rows' logits are those of ``rows`` of ``logits`` (R, V):
    what the model's own distribution says of the tokens that follow them."""
    places = [row for part in rows for row in part]
    tokens = [token for span in spans for token in _next_tokens(span)]
    counts = [min(_num_top(span), logits.shape[1]) for span in spans]
    chosen, ids, values = rank_columns(logits, places, tokens, max(counts))
    ranks = _ranks(logits, places, tokens)
    scores, first = [], 0
    for part, count in zip(rows, counts, strict=True):
        here, first = slice(first, first + len(part)), first + len(part)
        scores.append(
            PromptScores(
                count,
                chosen[here].astype(np.float32).tobytes(),
                ranks[here].tobytes(),
                ids[here, :count].astype(np.int32).tobytes(),
                values[here, :count].astype(np.float32).tobytes(),
            )
        )
    return scores


def _next_tokens(span: Span) -> tuple[int, ...]:
    return span.sequence.request.prompt[span.scored.start + 1 : span.scored.stop + 1]


def _num_top(span: Span) -> int:
    return span.sequence.request.params.prompt_logprobs or 0


def _ranks(logits: torch.Tensor, rows: list[int], tokens: list[int]) -> npt.NDArray[np.int32]:
    """(P,): how many tokens are at least as likely; of equals those with a higher id are not."""
    some = rows_at_once(logits)
    wanted = torch.tensor(tokens, device=logits.device)[:, None]
    parts = [
        _rank(logits[rows[at : at + some]], wanted[at : at + some])
        for at in range(0, len(rows), some)
    ]
    return torch.cat(parts).to("cpu", torch.int32).numpy()


def _rank(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    own = logits.gather(1, tokens)
    ranks = (logits > own).sum(-1)
    is_equal = logits == own
    tied = (is_equal.sum(-1) > 1).nonzero().flatten()
    ids = torch.arange(logits.shape[1], device=logits.device)
    ranks[tied] += (is_equal[tied] & (ids < tokens[tied])).sum(-1)
    return ranks + 1
