"""From logits to tokens. Every row has its own rules and its own random numbers.

A row's random number is made from its request's seed, which its prompt is mixed into, and the
position alone: equal logits come to the same token, whatever runs beside it.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sequence import Sequence, TokenLogprobs

__all__ = ["Sampled", "choose", "sample_batch", "shape_logits", "uniform"]


#: Tokens that nearly always hold what top-p keeps; and more of them for flat distributions.
_LIKELIEST = (1024, 16_384)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token that follows a row."""

    token: int
    logprobs: TokenLogprobs | None = None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but ``seed`` and ``position``."""
    key = struct.pack("<qq", seed, position)
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53


def sample_batch(batch: Batch, logits: torch.Tensor) -> list[tuple[Sampled, ...]]:
    """What follows every span of ``batch``: as many tokens as it samples. ``logits`` (S, V) has
    their rows in order."""
    # The index of ``max`` is that of ``argmax``, found four times as fast in bfloat16 on CPUs.
    greedy = logits.max(dim=-1).indices.tolist()
    rows = zip(logits, greedy, strict=True)
    return [_sample_span(span, rows) for span in batch.spans]


def _sample_span(span: Span, rows: Iterator[tuple[torch.Tensor, int]]) -> tuple[Sampled, ...]:
    # What follows an inner row is chosen by the tokens up to there, which nobody knows here yet.
    assert span.num_sampled <= 1
    return tuple(_sample_row(span.sequence, *row) for row in islice(rows, span.num_sampled))


def _sample_row(sequence: Sequence, row: torch.Tensor, likeliest: int) -> Sampled:
    params = sequence.request.params
    if params.greedy and not params.shapes_logits and params.logprobs is None:
        return Sampled(likeliest)
    logits = row.float()
    token = choose(sequence, logits)
    if params.logprobs is None:
        return Sampled(token)
    return Sampled(token, _logprobs(logits, token, params.logprobs))


def choose(sequence: Sequence, logits: torch.Tensor) -> int:
    """The token that ``sequence``'s parameters choose from ``logits`` (V,), float32."""
    params = sequence.request.params
    if params.shapes_logits:
        logits = shape_logits(sequence, logits)
    if params.greedy:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / params.temperature, dim=-1)
    probabilities, ids = _truncate(probabilities, params.top_k, params.top_p, params.min_p)
    heights = probabilities.cumsum(0)
    target = uniform(sequence.request.seed, sequence.length) * heights[-1]
    place = int(torch.searchsorted(heights, target, right=True))
    if place == len(heights):  # the product was rounded up to the whole height
        place = int(probabilities.nonzero()[-1])
    return place if ids is None else int(ids[place])


def shape_logits(sequence: Sequence, logits: torch.Tensor) -> torch.Tensor:
    """Biases, penalties and the ban on ending early, as vLLM and OpenAI define them."""
    params, output = sequence.request.params, sequence.output
    logits = logits.clone()
    if params.repetition_penalty != 1:
        seen = torch.tensor([*sequence.request.prompt, *output], device=logits.device).unique()
        scores = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    if output and (params.frequency_penalty or params.presence_penalty):
        tokens, counts = torch.tensor(output, device=logits.device).unique(return_counts=True)
        logits[tokens] -= params.frequency_penalty * counts + params.presence_penalty
    known = {token: bias for token, bias in params.logit_bias.items() if token < len(logits)}
    if known:
        logits[torch.tensor(list(known))] += torch.tensor(list(known.values())).to(logits)
    if len(output) < params.min_tokens:
        ends = [token for token in sequence.request.stop_ids if token < len(logits)]
        logits[torch.tensor(ends, dtype=torch.long)] = float("-inf")
    return logits


def _truncate(
    probabilities: torch.Tensor, top_k: int, top_p: float, min_p: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What top-k, then top-p, then min-p leave: probabilities and their token ids, in order of the
    ids (None: all of them). Ties at an edge fall to lower ids."""
    if top_k <= 0 and top_p >= 1 and min_p <= 0:
        return probabilities, None
    ordered, order = _order(probabilities, top_k, top_p, min_p)
    if top_k > 0:
        ordered, order = ordered[:top_k], order[:top_k]
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_p < 1:
        # Without top-k, ``ordered`` may leave out a tail that counts all the same.
        total = ordered.sum() if top_k > 0 else probabilities.sum()
        keep = ordered.cumsum(0) - ordered < top_p * total
    if min_p > 0:
        keep &= ordered >= min_p * ordered[0]
    keep[0] = True
    ids = order[keep].sort().values
    return probabilities[ids], ids


def _order(
    probabilities: torch.Tensor, top_k: int, top_p: float, min_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities from the largest down with their ids: all of them, or, where those are known to
    hold everything that will be kept, only the largest. Sorting a whole vocabulary takes longer
    than a small model's step."""
    for count in (max(top_k, few) for few in _LIKELIEST if max(top_k, few) < len(probabilities)):
        least = probabilities.topk(count).values[-1]
        ids = (probabilities >= least).nonzero().flatten()
        ordered, order = probabilities[ids].sort(descending=True, stable=True)
        if top_k > 0 or ordered.sum() >= top_p * probabilities.sum() or least < min_p * ordered[0]:
            return ordered, ids[order]
    return probabilities.sort(descending=True, stable=True)


def _logprobs(logits: torch.Tensor, token: int, num_top: int) -> TokenLogprobs:
    """Log-probabilities of the model itself: before temperature, penalties and truncation."""
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), top)
