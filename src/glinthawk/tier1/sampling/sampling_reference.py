"""One row's token, written plainly: the truth that batched sampling is compared with, and what rows
without a distribution (NaN, an infinite logit) come to."""

import torch

from glinthawk.core.prompt_scores import TokenScore
from glinthawk.core.sequence import Sequence, TokenLogprobs
from glinthawk.tier1.sampling.random_numbers import uniform

__all__ = ["choose", "limit_logits", "rank_logprobs", "score_token", "shape_logits"]


def choose(sequence: Sequence, logits: torch.Tensor) -> int:
    """The token that ``sequence``'s parameters choose from ``logits`` (V,), float32."""
    params = sequence.request.params
    if params.shapes_logits:
        logits = limit_logits(sequence, shape_logits(sequence, logits))
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
    for *before, last in sequence.request.bad_tokens:
        if last < len(logits) and output[len(output) - len(before) :] == before:
            logits[last] = float("-inf")
    if len(output) < params.min_tokens:
        ends = [token for token in sequence.request.stop_ids if token < len(logits)]
        logits[torch.tensor(ends, dtype=torch.long)] = float("-inf")
    return logits


def limit_logits(sequence: Sequence, logits: torch.Tensor) -> torch.Tensor:
    """Those of the allowed tokens, and -inf for all others. Where none of them has any probability,
    the first one has all: a ban of all that may come next gives way."""
    listed = sequence.request.params.allowed_token_ids
    if listed is None:
        return logits
    allowed = torch.tensor(sorted(listed), device=logits.device)
    only = torch.full_like(logits, float("-inf"))
    only[allowed] = logits[allowed]
    if not only.isfinite().any():
        only[allowed[0]] = 0
    return only


def _truncate(
    probabilities: torch.Tensor, top_k: int, top_p: float, min_p: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What top-k, then top-p, then min-p leave: probabilities and their token ids, in order of the
    ids (None: all of them). Ties at an edge fall to lower ids."""
    if top_k <= 0 and top_p >= 1 and min_p <= 0:
        return probabilities, None
    ordered, order = probabilities.sort(descending=True, stable=True)
    if top_k > 0:
        ordered, order = ordered[:top_k], order[:top_k]
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_p < 1:
        keep = ordered.cumsum(0) - ordered < top_p * ordered.sum()
    if min_p > 0:
        keep &= ordered >= min_p * ordered[0]
    keep[0] = True
    ids = order[keep].sort().values
    return probabilities[ids], ids


def rank_logprobs(logits: torch.Tensor, token: int, num_top: int) -> TokenLogprobs:
    """Log-probabilities of the model itself, of ``logits`` (V,) before temperature, penalties and
    truncation; ties fall to lower ids."""
    logprobs = torch.log_softmax(logits, dim=-1)
    order = logits.sort(descending=True, stable=True).indices
    ids, rank = order[:num_top], order.tolist().index(token) + 1
    top = tuple(zip(ids.tolist(), logprobs[ids].tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs[token]), rank, top)


def score_token(logits: torch.Tensor, token: int, num_top: int) -> TokenScore:
    """What ``logits`` (V,) say of a ``token`` that a prompt has there."""
    ranked = rank_logprobs(logits, token, num_top)
    return TokenScore(ranked.logprob, ranked.rank, ranked.top)
