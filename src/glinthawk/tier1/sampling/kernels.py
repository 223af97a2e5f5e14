"""The kernels of native/src/sampling, for rows of logits on a CPU: on torch's threads."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from glinthawk import _native
from glinthawk.core.openmp import find_team
from glinthawk.tier1.sampling.draws import DrawRules, tabulate
from glinthawk.tier1.sampling.row_masks import RowMasks
from glinthawk.tier1.sampling.shaping import LogitEdits

__all__ = ["Ranking", "draw_by_kernel", "has_kernel", "rank_by_kernel"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Ranking(NamedTuple):
    """Of R rows, of equals the lower id first: log-probabilities of their tokens (R,), NaN for a
    row without a distribution; ids of the likeliest (R, count) and theirs; and the tokens' own
    ranks (R,), 1 for the likeliest."""

    chosen: _Floats
    ids: _Ids
    values: _Floats
    ranks: _Ids


def has_kernel(logits: torch.Tensor) -> bool:
    """Whether the others here take these."""
    return logits.device.type == "cpu" and logits.dtype in _DTYPES


def draw_by_kernel(
    logits: torch.Tensor,
    rules: list[DrawRules],
    edits: LogitEdits | None = None,
    masks: RowMasks | None = None,
    isa: str = "auto",
) -> list[int]:
    """Tokens drawn from each row of ``logits`` (S, V), as by ``draws.draw_by_torch``. Raises
    ValueError if this machine lacks ``isa``, or the vocabulary a token."""
    table, tokens = tabulate(rules), np.empty(len(rules), np.int64)
    logits, addresses = _rows(logits, list(range(len(rules))))
    offsets, edited, values = _edit_addresses(edits, len(rules))
    masked = np.zeros(0, np.int64) if masks is None else masks.addresses(len(rules))
    _native.sample_rows(
        tokens.ctypes.data,
        table.ctypes.data,
        offsets,
        edited,
        values,
        masked.ctypes.data if masks is not None else 0,
        masks.bits.shape[1] if masks is not None else 0,
        *_arguments(logits, addresses),
        isa,
        *_threads(),
    )
    return tokens.tolist()


def rank_by_kernel(
    logits: torch.Tensor, rows: list[int], tokens: list[int], count: int, isa: str = "auto"
) -> Ranking:
    """Log-probabilities from ``rows`` of ``logits`` (S, V), as by ``ranking.rank_by_torch``. Raises
    ValueError if this machine lacks ``isa``, or the vocabulary a token."""
    asked, chosen = np.array(tokens, np.int64), np.empty(len(rows), np.float32)
    ids, ranks = np.empty((len(rows), count), np.int64), np.empty(len(rows), np.int64)
    values = np.empty((len(rows), count), np.float32)
    logits, addresses = _rows(logits, rows)
    _native.rank_rows(
        asked.ctypes.data,
        chosen.ctypes.data,
        ranks.ctypes.data,
        count,
        ids.ctypes.data,
        values.ctypes.data,
        *_arguments(logits, addresses),
        isa,
        *_threads(),
    )
    chosen[asked < 0] = np.nan
    return Ranking(chosen, ids, values, ranks)


def _edit_addresses(edits: LogitEdits | None, num_rows: int) -> tuple[int, int, int]:
    if edits is None:
        return 0, 0, 0
    assert len(edits.offsets) == num_rows + 1 and edits.offsets[-1] == len(edits.values)
    assert edits.values.is_contiguous()
    return edits.offsets.ctypes.data, edits.tokens.ctypes.data, edits.values.data_ptr()


def _rows(logits: torch.Tensor, rows: list[int]) -> tuple[torch.Tensor, _Ids]:
    """Logits whose rows are contiguous, and where those rows are."""
    assert not rows or 0 <= min(rows) <= max(rows) < len(logits)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    step = logits.stride(0) * logits.itemsize
    return logits, logits.data_ptr() + step * np.array(rows, np.int64)


def _arguments(logits: torch.Tensor, addresses: _Ids) -> tuple[int, int, int, str]:
    dtype = str(logits.dtype).removeprefix("torch.")
    return addresses.ctypes.data, len(addresses), logits.shape[1], dtype


def _threads() -> tuple[int, int, int]:
    return torch.get_num_threads(), *find_team()
