"""Of sequences that may not choose just any token: those that may come next."""

from collections.abc import Sequence as Many
from functools import lru_cache

import numpy as np

from glinthawk.core.sequence import Sequence
from glinthawk.tier1.sampling.row_masks import Bits, RowMasks
from glinthawk.tier1.sampling.token_masks import TokenMasks

__all__ = ["is_structured", "mask_rows"]

_WORD = 32


def is_structured(sequence: Sequence) -> bool:
    """Whether its answer is held to a grammar."""
    return sequence.request.params.structured_outputs is not None


def mask_rows(
    sequences: Many[Sequence], vocab_size: int, masks: TokenMasks | None
) -> RowMasks | None:
    """Of the rows that are bound, by a grammar or by a list; None if none is. ``masks`` say what
    grammars allow."""
    structured = [row for row, sequence in enumerate(sequences) if is_structured(sequence)]
    listed = [row for row, sequence in enumerate(sequences) if _listed(sequence) is not None]
    if not structured and not listed:
        return None
    grammars = None
    if structured:
        assert masks is not None, "nobody knows the tokenizer here"
        grammars = masks.allowed([sequences[row] for row in structured])
        if not listed:
            return RowMasks(structured, grammars)
    rows = sorted(structured + listed)
    num_words = -(-vocab_size // _WORD)
    bits = np.zeros((len(rows), num_words), np.int32)
    if grammars is not None:
        known = min(num_words, grammars.shape[1])
        bits[np.searchsorted(rows, structured), :known] = grammars[:, :known]
    for place in np.searchsorted(rows, listed):
        ids = _listed(sequences[rows[place]])
        assert ids is not None
        bits[place] = _pack(ids, vocab_size)
    return RowMasks(rows, bits)


def _listed(sequence: Sequence) -> tuple[int, ...] | None:
    ids = sequence.request.params.allowed_token_ids
    return None if ids is None else tuple(ids)


@lru_cache(maxsize=256)  # most lines of a job have the same
def _pack(ids: tuple[int, ...], vocab_size: int) -> Bits:
    """(W,)"""
    flags = np.zeros(_WORD * -(-vocab_size // _WORD), np.bool_)
    flags[[one for one in ids if one < vocab_size]] = True
    return np.packbits(flags, bitorder="little").view(np.int32)
