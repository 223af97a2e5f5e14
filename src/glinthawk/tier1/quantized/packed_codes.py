"""Codes of 4 or 8 bits that checkpoints pack into words of 32."""

import torch
from torch.nn import functional as F

__all__ = ["pack_columns", "unpack_columns", "unpack_rows"]


def unpack_columns(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 (R, W) -> uint8 (R, W * 32 / bits): a word's lowest bits are its first column."""
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    return torch.stack((octets & 0xF, octets >> 4), dim=-1).flatten(-2)


def pack_columns(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The reverse of ``unpack_columns``; a last word that is not full ends with zeros."""
    fold = 32 // bits
    whole = F.pad(codes, (0, -codes.shape[1] % fold))
    if bits == 4:
        whole = whole[:, ::2] | whole[:, 1::2] << 4
    return whole.contiguous().view(torch.int32)


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 (W, C) -> uint8 (W * 32 / bits, C): a word's lowest bits are its first row."""
    return unpack_columns(words.t(), bits).t()
