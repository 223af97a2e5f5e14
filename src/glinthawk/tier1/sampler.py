"""From logits to tokens. Every row has its own rules and its own random numbers.

A row's random number is made from its request's seed and the position alone, so what runs beside it
never changes its answer.
"""

import hashlib
import struct
from dataclasses import dataclass

import torch

from glinthawk.core.batch import Batch
from glinthawk.core.sequence import Sequence, TokenLogprobs

__all__ = ["Sampled", "choose", "sample_batch", "shape_logits", "uniform"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of one span."""

    token: int
    logprobs: TokenLogprobs | None = None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but ``seed`` and ``position``."""
    key = struct.pack("<qq", seed, position)
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53


def sample_batch(batch: Batch, logits: torch.Tensor) -> list[Sampled]:
    """The next token after every span of ``batch``; logits (R, V), a row a span."""
    sequences = [span.sequence for span in batch.spans]
    greedy = logits.argmax(dim=-1).tolist()
    return [
        _sample_row(sequence, logits[row], greedy[row]) for row, sequence in enumerate(sequences)
    ]


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
    probabilities = _truncate(probabilities, params.top_k, params.top_p, params.min_p)
    heights = probabilities.cumsum(0)
    target = uniform(sequence.request.seed, sequence.length) * heights[-1]
    token = int(torch.searchsorted(heights, target, right=True))
    return min(token, int(probabilities.nonzero()[-1]))


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


def _truncate(probabilities: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Zero what top-k, then top-p, then min-p leave out; ties at an edge fall to lower ids."""
    if top_k <= 0 and top_p >= 1 and min_p <= 0:
        return probabilities
    ordered, order = probabilities.sort(descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k > 0:
        keep[top_k:] = False
    if top_p < 1:
        kept = ordered * keep
        before = kept.cumsum(0) - kept
        keep &= before < top_p * kept.sum()
    if min_p > 0:
        keep &= ordered >= min_p * ordered[0]
    keep[0] = True
    result = torch.zeros_like(probabilities)
    result[order[keep]] = ordered[keep]
    return result


def _logprobs(logits: torch.Tensor, token: int, num_top: int) -> TokenLogprobs:
    """Log-probabilities of the model itself: before temperature, penalties and truncation."""
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(num_top, len(logprobs)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), top)
