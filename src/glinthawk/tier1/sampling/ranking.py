"""Log-probabilities of many rows; plainly: ``sampling_reference.rank_logprobs``."""

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.core.sequence import TokenLogprobs
from glinthawk.tier1.sampling.draws import rows_at_once
from glinthawk.tier1.sampling.kernels import Ranking, has_kernel, rank_by_kernel
from glinthawk.tier1.sampling.sampling_reference import score_token

__all__ = ["rank_by_torch", "rank_columns", "rank_rows"]

_Ids = npt.NDArray[np.int64]


def rank_rows(
    logits: torch.Tensor, rows: list[int], tokens: list[int], num_top: Many[int]
) -> list[TokenLogprobs]:
    """Of each of ``rows`` of ``logits`` (S, V), the model's own log-probabilities: of the token
    that was chosen, and of the likeliest ``num_top``."""
    counts = [min(count, logits.shape[1]) for count in num_top]
    chosen, ids, values, ranks = rank_columns(logits, rows, tokens, max(counts))
    tops = [
        tuple(zip(some[:count], of_them[:count], strict=True))
        for some, of_them, count in zip(ids.tolist(), values.tolist(), counts, strict=True)
    ]
    columns = zip(tokens, chosen.tolist(), ranks.tolist(), tops, strict=True)
    return [TokenLogprobs(*column) for column in columns]


def rank_columns(logits: torch.Tensor, rows: list[int], tokens: list[int], count: int) -> Ranking:
    """As ``rank_by_torch``, by what is fastest, and with what the plain way says of rows without a
    distribution. ``count`` is at most V."""
    rank = rank_by_kernel if has_kernel(logits) else rank_by_torch
    ranking = rank(logits, rows, tokens, count)
    for place in np.flatnonzero(np.isnan(ranking.chosen)).tolist():
        plain = score_token(logits[rows[place]].float(), tokens[place], count)
        ranking.chosen[place], ranking.ranks[place] = plain.logprob, plain.rank
        ranking.ids[place] = [token for token, _ in plain.top]
        ranking.values[place] = [logprob for _, logprob in plain.top]
    return ranking


def rank_by_torch(logits: torch.Tensor, rows: list[int], tokens: list[int], count: int) -> Ranking:
    """Of ``tokens`` (R,) and the likeliest in ``rows`` of ``logits`` (S, V)."""
    some = rows_at_once(logits)
    parts = [
        _rank(logits[rows[at : at + some]].float(), tokens[at : at + some], count)
        for at in range(0, len(rows), some)
    ]
    return Ranking(*map(np.concatenate, zip(*parts, strict=True)))


def _rank(logits: torch.Tensor, tokens: list[int], count: int) -> Ranking:
    lost = ~logits.amax(-1).isfinite()
    logits = logits.masked_fill(lost[:, None], 0)
    logprobs = torch.log_softmax(logits, dim=-1)
    places = torch.tensor(tokens, device=logits.device)[:, None]
    chosen = logprobs.gather(1, places).flatten().masked_fill(lost, float("nan"))
    ids = _likeliest(logits, count)
    values = logprobs.gather(1, torch.from_numpy(ids).to(logits.device))
    ranks = 1 + _count_before(logits, places)
    return Ranking(chosen.cpu().numpy(), ids, values.cpu().numpy(), ranks.cpu().numpy())


def _count_before(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    own = logits.gather(1, tokens)
    is_lower = torch.arange(logits.shape[1], device=logits.device) < tokens
    return ((logits > own) | ((logits == own) & is_lower)).sum(-1)


def _likeliest(logits: torch.Tensor, count: int) -> _Ids:
    if count == 0:
        return np.zeros((len(logits), 0), np.int64)
    # Which of several equals ``topk`` returns is its own business: all that equal its last count.
    least = logits.topk(count).values[:, -1:]
    places = (logits >= least).nonzero()
    values = logits[places.unbind(1)].cpu().numpy()
    rows, ids = places.cpu().numpy().T
    order = np.lexsort((ids, -values, rows))
    starts = np.searchsorted(rows, np.arange(len(logits)))
    found: _Ids = ids[order][starts[:, None] + np.arange(count)]
    return found
