"""Log-probabilities of many rows; plainly: ``sampling_reference.rank_logprobs``."""

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import torch

from glinthawk.core.sequence import TokenLogprobs
from glinthawk.tier1.sampling.draws import rows_at_once
from glinthawk.tier1.sampling.kernels import has_kernel, rank_by_kernel
from glinthawk.tier1.sampling.sampling_reference import rank_logprobs

__all__ = ["rank_by_torch", "rank_columns", "rank_rows"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


def rank_rows(
    logits: torch.Tensor, rows: list[int], tokens: list[int], num_top: Many[int]
) -> list[TokenLogprobs]:
    """Of each of ``rows`` of ``logits`` (S, V), the model's own log-probabilities: of the token
    that was chosen, and of the likeliest ``num_top``."""
    counts = [min(count, logits.shape[1]) for count in num_top]
    chosen, ids, values = rank_columns(logits, rows, tokens, max(counts))
    columns = zip(tokens, chosen.tolist(), ids.tolist(), values.tolist(), counts, strict=True)
    return [TokenLogprobs(t, c, tuple(zip(i[:n], v[:n], strict=True))) for t, c, i, v, n in columns]


def rank_columns(
    logits: torch.Tensor, rows: list[int], tokens: list[int], count: int
) -> tuple[_Floats, _Ids, _Floats]:
    """As ``rank_by_torch``, by what is fastest, and with what the plain way says of rows without a
    distribution. ``count`` is at most V."""
    rank = rank_by_kernel if has_kernel(logits) else rank_by_torch
    chosen, ids, values = rank(logits, rows, tokens, count)
    for place in np.flatnonzero(np.isnan(chosen)).tolist():
        plain = rank_logprobs(logits[rows[place]].float(), tokens[place], count)
        chosen[place] = plain.logprob
        ids[place] = [token for token, _ in plain.top]
        values[place] = [logprob for _, logprob in plain.top]
    return chosen, ids, values


def rank_by_torch(
    logits: torch.Tensor, rows: list[int], tokens: list[int], count: int
) -> tuple[_Floats, _Ids, _Floats]:
    """Log-probabilities of ``tokens`` (R,), ids of the likeliest (R, count) and theirs, from
    ``rows`` of ``logits`` (S, V). Of equals the lower id comes first. NaN for a row without a
    distribution."""
    some = rows_at_once(logits)
    parts = [
        _rank(logits[rows[at : at + some]].float(), tokens[at : at + some], count)
        for at in range(0, len(rows), some)
    ]
    chosen, ids, values = map(np.concatenate, zip(*parts, strict=True))
    return chosen, ids, values


def _rank(logits: torch.Tensor, tokens: list[int], count: int) -> tuple[_Floats, _Ids, _Floats]:
    lost = ~logits.amax(-1).isfinite()
    logits = logits.masked_fill(lost[:, None], 0)
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None]).flatten()
    ids = _likeliest(logits, count)
    values = logprobs.gather(1, torch.from_numpy(ids).to(logits.device))
    return chosen.masked_fill(lost, float("nan")).cpu().numpy(), ids, values.cpu().numpy()


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
