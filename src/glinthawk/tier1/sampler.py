"""From logits to tokens. Every row has its own rules and its own random numbers.

A row's random number is made from its request's seed, which its prompt is mixed into, and the
position alone: equal logits come to the same token, whatever runs beside it.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from glinthawk.core.batch import Batch
from glinthawk.core.sequence import Sequence, TokenLogprobs
from glinthawk.tier1.sampling.allowed_tokens import allowed_tokens, is_bound
from glinthawk.tier1.sampling.draws import DrawRules, draw_by_torch
from glinthawk.tier1.sampling.kernels import draw_by_kernel, has_kernel
from glinthawk.tier1.sampling.masked_draws import draw_masked
from glinthawk.tier1.sampling.random_numbers import uniform
from glinthawk.tier1.sampling.ranking import rank_rows
from glinthawk.tier1.sampling.sampling_reference import choose
from glinthawk.tier1.sampling.shaping import LogitEdits, edit_logits
from glinthawk.tier1.sampling.token_masks import TokenMasks

__all__ = ["Sampled", "sample_batch"]

#: The likeliest token is the first of one.
_GREEDY = DrawRules(temperature=1.0, top_k=1, top_p=1.0, min_p=0.0, uniform=0.0)
#: More tokens than any vocabulary has.
_ALL = 1 << 31


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token that follows a row."""

    token: int
    logprobs: TokenLogprobs | None = None


def sample_batch(
    batch: Batch, logits: torch.Tensor, masks: TokenMasks | None = None
) -> list[tuple[Sampled, ...]]:
    """What follows every span of ``batch``: as many tokens as it samples. ``logits`` (S, V) has
    their rows in order; they are not changed. ``masks`` say what structured outputs allow."""
    # What follows an inner row is chosen by the tokens up to there, which nobody knows here yet.
    assert all(span.num_sampled <= 1 for span in batch.spans)
    sequences = [span.sequence for span in batch.spans for _ in range(span.num_sampled)]
    tokens = _choose(sequences, logits, masks)
    rows = iter(map(Sampled, tokens, _logprobs(sequences, tokens, logits)))
    return [tuple(islice(rows, span.num_sampled)) for span in batch.spans]


def _choose(sequences: list[Sequence], logits: torch.Tensor, masks: TokenMasks | None) -> list[int]:
    rules = [_draw_rules(sequence) for sequence in sequences]
    edits = edit_logits(sequences, logits)
    bound = [row for row, sequence in enumerate(sequences) if is_bound(sequence)]
    if not bound:
        return _draw(sequences, logits, rules, edits)
    free = sorted({*range(len(sequences))} - {*bound})
    allowed = allowed_tokens([sequences[row] for row in bound], logits.shape[1], masks)
    tokens = np.empty(len(sequences), np.int64)
    tokens[bound] = draw_masked(
        logits,
        bound,
        allowed,
        [rules[row] for row in bound],
        edits and edits.take(bound),
    )
    if free:
        some = [sequences[row] for row in free], logits, [rules[row] for row in free]
        tokens[free] = _draw(*some, edits and edits.take(free), free)
    return tokens.tolist()


def _draw(
    sequences: list[Sequence],
    logits: torch.Tensor,
    rules: list[DrawRules],
    edits: LogitEdits | None,
    rows: list[int] | None = None,
) -> list[int]:
    """From all rows of ``logits``, or from those of ``rows``, which are the sequences'."""
    draw = draw_by_kernel if has_kernel(logits) else draw_by_torch
    tokens = draw(logits, rules, edits, rows=rows)
    for place, token in enumerate(tokens):
        if token < 0:  # there is no distribution
            row = place if rows is None else rows[place]
            tokens[place] = choose(sequences[place], logits[row].float())
    return tokens


def _draw_rules(sequence: Sequence) -> DrawRules:
    params = sequence.request.params
    if params.greedy:
        return _GREEDY
    number = uniform(sequence.request.seed, sequence.length)
    top_k = min(params.top_k, _ALL)
    return DrawRules(params.temperature, top_k, params.top_p, params.min_p, number)


def _logprobs(
    sequences: list[Sequence], tokens: list[int], logits: torch.Tensor
) -> list[TokenLogprobs | None]:
    wishes = [sequence.request.params.logprobs for sequence in sequences]
    rows = [row for row, wish in enumerate(wishes) if wish is not None]
    if not rows:
        return [None] * len(sequences)
    wanted = [wish for wish in wishes if wish is not None]
    ranked = iter(rank_rows(logits, rows, [tokens[row] for row in rows], wanted))
    return [None if wish is None else next(ranked) for wish in wishes]
