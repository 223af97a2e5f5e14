"""From logits to tokens. Every row has its own rules and its own random numbers.

A row's random number is made from its request's seed, which its prompt is mixed into, and the
position alone: equal logits come to the same token, whatever runs beside it.
"""

from contextlib import ExitStack
from dataclasses import dataclass

import torch

from glinthawk.core.batch import Batch
from glinthawk.core.sequence import Sequence, TokenLogprobs
from glinthawk.tier1.sampling.allowed_tokens import is_structured, mask_rows
from glinthawk.tier1.sampling.draws import DrawRules, draw_by_torch
from glinthawk.tier1.sampling.kernels import draw_by_kernel, has_kernel
from glinthawk.tier1.sampling.random_numbers import uniform
from glinthawk.tier1.sampling.ranking import rank_rows
from glinthawk.tier1.sampling.sampling_reference import choose
from glinthawk.tier1.sampling.shaping import edit_logits
from glinthawk.tier1.sampling.token_masks import TokenMasks
from glinthawk.tier1.sampling.turns import Turn, list_turns

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
    """What follows every span of ``batch``: as many tokens as it samples, but none behind the first
    that its draft guessed wrong. ``logits`` (S, V) has their rows in order; they are not changed.
    ``masks`` say what structured outputs allow."""
    turns = list(list_turns(batch))
    going = [turn for turn in turns if not turn.is_over]
    while going:
        _take_turns(going, logits, masks)
        going = [turn for turn in going if not turn.is_over]
    logprobs = iter(_logprobs(turns, logits))
    return [tuple([Sampled(token, next(logprobs)) for token in turn.tokens]) for turn in turns]


def _take_turns(turns: list[Turn], logits: torch.Tensor, masks: TokenMasks | None) -> None:
    places = [(turn, place) for turn in turns for place in turn.at_once]
    sequences = [turn.span.sequence for turn, _ in places]
    rows = [turn.first + place for turn, place in places]
    # Whose turn it is knows its tokens; what comes behind others is drawn before those are known.
    ahead = [place - len(turn.tokens) for turn, place in places]
    some = logits if len(rows) == len(logits) else logits[rows]
    with ExitStack() as supposed:
        for turn in turns:
            if turn.tokens:
                supposed.enter_context(turn.span.sequence.supposing(turn.tokens))
        drawn = _choose(sequences, ahead, some, masks)
    for (turn, _), token in zip(places, drawn, strict=True):
        turn.take(token)


def _choose(
    sequences: list[Sequence], ahead: list[int], logits: torch.Tensor, masks: TokenMasks | None
) -> list[int]:
    """What follows each of ``sequences`` by its row of ``logits``; with ``ahead`` tokens between
    those it has and this one, whatever they are."""
    rules = [_draw_rules(*row) for row in zip(sequences, ahead, strict=True)]
    edits = edit_logits(sequences, logits)
    allowed = mask_rows(sequences, logits.shape[1], masks)
    draw = draw_by_kernel if has_kernel(logits) else draw_by_torch
    tokens = draw(logits, rules, edits, allowed)
    for row, token in enumerate(tokens):
        if token >= 0:
            continue  # otherwise there is no distribution: all that may come may be banned, too
        if allowed is not None and row in allowed.rows:
            tokens[row] = allowed.lowest(row, logits.shape[1])
        else:
            tokens[row] = choose(sequences[row], logits[row].float())
    if masks is not None:
        rows = [row for row, sequence in enumerate(sequences) if is_structured(sequence)]
        masks.begin([sequences[row] for row in rows], [tokens[row] for row in rows])
    return tokens


def _draw_rules(sequence: Sequence, ahead: int) -> DrawRules:
    params = sequence.request.params
    if params.greedy:
        return _GREEDY
    number = uniform(sequence.request.seed, sequence.length + ahead)
    top_k = min(params.top_k, _ALL)
    return DrawRules(params.temperature, top_k, params.top_p, params.min_p, number)


def _logprobs(turns: list[Turn], logits: torch.Tensor) -> list[TokenLogprobs | None]:
    """Of all tokens of all turns."""
    asked = [
        (turn.first + place, token, turn.span.sequence.request.params.logprobs)
        for turn in turns
        for place, token in enumerate(turn.tokens)
    ]
    wanted = [(row, token, wish) for row, token, wish in asked if wish is not None]
    if not wanted:
        return [None] * len(asked)
    ranked = iter(rank_rows(logits, *map(list, zip(*wanted, strict=True))))
    return [None if wish is None else next(ranked) for _, _, wish in asked]
