"""Log-probabilities of many rows; plainly: ``reference.rank_logprobs``."""

from collections.abc import Sequence as Many

import numpy as np
import torch

from glinthawk.core.sequence import TokenLogprobs

__all__ = ["rank_rows"]


def rank_rows(logits: torch.Tensor, tokens: Many[int], num_top: Many[int]) -> list[TokenLogprobs]:
    """Of each row of ``logits`` (R, V), the model's own: the token that was chosen, and the
    likeliest ``num_top``; ties fall to lower ids."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None]).flatten()
    tops = _top(logprobs, num_top)
    return list(map(TokenLogprobs, tokens, chosen.tolist(), tops))


def _top(logprobs: torch.Tensor, num_top: Many[int]) -> list[tuple[tuple[int, float], ...]]:
    counts = np.minimum(num_top, logprobs.shape[1])
    if not counts.any():
        return [()] * len(num_top)
    # Which of several equals ``topk`` returns is its own business: all that equal its last count.
    least = logprobs.topk(int(counts.max())).values[:, -1:]
    places = ((logprobs >= least) | least.isnan()).nonzero()
    values = logprobs[places.unbind(1)].cpu().numpy()
    rows, ids = places.cpu().numpy().T
    order = np.lexsort((ids, -values, rows))
    found = list(zip(ids[order].tolist(), values[order].tolist(), strict=True))
    starts = np.searchsorted(rows, np.arange(len(counts))).tolist()
    return [tuple(found[s : s + n]) for s, n in zip(starts, counts.tolist(), strict=True)]
