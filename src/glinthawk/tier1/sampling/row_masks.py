"""Bits that say which tokens may follow some rows of logits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Bits", "DeviceMasks", "RowMasks"]

#: int32, 32 tokens each: the first one's bit is the lowest.
Bits = npt.NDArray[np.int32]

_WORD = 32


class RowMasks(NamedTuple):
    """Masks of R of the rows; all others may be followed by any token."""

    #: Distinct, in ascending order.
    rows: list[int]
    #: (R, W), contiguous. Tokens beyond the last bit may not come.
    bits: Bits

    def addresses(self, num_rows: int) -> npt.NDArray[np.int64]:
        """(num_rows,): where each row's words lie; 0 for a row without a mask."""
        assert self.bits.flags.c_contiguous and self.bits.dtype == np.int32
        addresses = np.zeros(num_rows, np.int64)
        step = self.bits.strides[0] * np.arange(len(self.rows))
        addresses[self.rows] = self.bits.ctypes.data + step
        return addresses

    def lowest(self, row: int, vocab_size: int) -> int:
        """The lowest token that may follow ``row``, which has a mask."""
        octets = self.bits[self.rows.index(row)].view(np.uint8)
        return int(np.unpackbits(octets, count=vocab_size, bitorder="little").argmax())


class DeviceMasks:
    """``masks`` where torch's logits are: sent packed, once, and unpacked there."""

    def __init__(self, masks: RowMasks, device: torch.device) -> None:
        self._rows = np.array(masks.rows)
        self._bits = torch.from_numpy(masks.bits).to(device)
        self._places = torch.arange(_WORD, dtype=torch.int32, device=device)

    def apply(self, logits: torch.Tensor, first: int) -> torch.Tensor:
        """``logits`` (S, V) of the rows from ``first`` on, with -inf for what may not come: a copy
        if any of them has a mask."""
        begin, end = np.searchsorted(self._rows, [first, first + len(logits)]).tolist()
        if begin == end:
            return logits
        rows = torch.from_numpy(self._rows[begin:end] - first).to(logits.device)
        excluded = torch.ones(end - begin, logits.shape[1], dtype=torch.bool, device=logits.device)
        bits = (self._bits[begin:end, :, None] >> self._places & 1).flatten(1) == 0
        known = min(bits.shape[1], logits.shape[1])
        excluded[:, :known] = bits[:, :known]
        return logits.index_put((rows,), logits[rows].masked_fill(excluded, float("-inf")))
