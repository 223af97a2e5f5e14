"""Of sequences that may not choose just any token: those that may come next."""

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt

from glinthawk.core.sequence import Sequence
from glinthawk.tier1.sampling.token_masks import TokenMasks

__all__ = ["allowed_tokens", "is_bound"]


def is_bound(sequence: Sequence) -> bool:
    """Whether only some tokens may come next."""
    return _is_structured(sequence) or sequence.request.params.allowed_token_ids is not None


def allowed_tokens(
    sequences: Many[Sequence], vocab_size: int, masks: TokenMasks | None
) -> npt.NDArray[np.bool_]:
    """(S, V), of sequences that are all bound. ``masks`` say what structured outputs allow."""
    flags = np.zeros((len(sequences), vocab_size), np.bool_)
    structured = [row for row, sequence in enumerate(sequences) if _is_structured(sequence)]
    if structured:
        assert masks is not None, "nobody knows the tokenizer here"
        flags[structured] = masks.allowed([sequences[row] for row in structured], vocab_size)
    for row, sequence in enumerate(sequences):
        listed = np.asarray(sequence.request.params.allowed_token_ids or (), np.int64)
        flags[row, listed[listed < vocab_size]] = True
    return flags


def _is_structured(sequence: Sequence) -> bool:
    return sequence.request.params.structured_outputs is not None
