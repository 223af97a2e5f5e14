"""From logits to tokens. Every row has its own rules and its own random numbers.

A row's random number is made from its request's seed, which its prompt is mixed into, and the
position alone: equal logits come to the same token, whatever runs beside it.
"""

from dataclasses import dataclass
from itertools import islice

import torch

from glinthawk.core.batch import Batch
from glinthawk.core.sequence import Sequence, TokenLogprobs
from glinthawk.tier1.sampling.draws import DrawRules, draw_by_torch
from glinthawk.tier1.sampling.kernels import draw_by_kernel, has_kernel
from glinthawk.tier1.sampling.random_numbers import uniform
from glinthawk.tier1.sampling.ranking import rank_rows
from glinthawk.tier1.sampling.row_masks import RowMasks
from glinthawk.tier1.sampling.sampling_reference import choose
from glinthawk.tier1.sampling.shaping import edit_logits
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
    allowed = _allow(sequences, masks)
    draw = draw_by_kernel if has_kernel(logits) else draw_by_torch
    tokens = draw(logits, rules, edits, allowed)
    for row, token in enumerate(tokens):
        if token >= 0:
            continue  # otherwise there is no distribution: all that may come may be banned, too
        if allowed is not None and row in allowed.rows:
            tokens[row] = allowed.lowest(row, logits.shape[1])
        else:
            tokens[row] = choose(sequences[row], logits[row].float())
    if masks is not None and allowed is not None:
        rows = allowed.rows
        masks.begin([sequences[row] for row in rows], [tokens[row] for row in rows])
    return tokens


def _allow(sequences: list[Sequence], masks: TokenMasks | None) -> RowMasks | None:
    bound = [
        row
        for row, sequence in enumerate(sequences)
        if sequence.request.params.structured_outputs is not None
    ]
    if not bound:
        return None
    assert masks is not None, "nobody knows the tokenizer here"
    return RowMasks(bound, masks.allowed([sequences[row] for row in bound]))


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
