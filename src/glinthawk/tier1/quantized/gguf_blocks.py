"""GGUF's quantised types: blocks of a row's inputs, and what they mean.

Facts are those of ggml's own reference, in the package ``gguf`` (``gguf.quants``). A block begins
or ends with its scales in float16. Every type here means (code - zero) * scale in groups of 16 or
32 inputs; a type of 5 or 6 bits is kept as 8.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from glinthawk.tier1.quantized.quantized_weight import QuantizedWeight
from glinthawk.tier1.quantized.weight_layouts import Shapes, Tensors

__all__ = ["GgufLayout"]

#: Codes (R, inputs of a block), scales (R, groups), and what is added to a group's inputs, or the
#: code that stands for 0 in all of them.
_Read = tuple[torch.Tensor, torch.Tensor, torch.Tensor | int]


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 there: float32 (R, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(octets: torch.Tensor, run: int) -> torch.Tensor:
    """Of every ``run`` bytes all lower halves, then all upper ones: (R, B) -> (R, 2 B)."""
    runs = octets.view(len(octets), -1, 1, run)
    return torch.cat((runs & 0xF, runs >> 4), dim=2).flatten(1)


def _bits(octets: torch.Tensor, width: int, run: int) -> torch.Tensor:
    """Of every ``run`` bytes the lowest ``width`` bits of all, then the next: (R, B) -> (R, B *
    8 / width)."""
    runs = octets.view(len(octets), -1, 1, run)
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=octets.device).view(-1, 1)
    return (runs >> shifts & (1 << width) - 1).flatten(1)


def _read_q4_0(blocks: torch.Tensor) -> _Read:
    return _nibbles(blocks[:, 2:], 16), _half(blocks, 0), 8


def _read_q4_1(blocks: torch.Tensor) -> _Read:
    return _nibbles(blocks[:, 4:], 16), _half(blocks, 0), _half(blocks, 2)


def _read_q5_0(blocks: torch.Tensor) -> _Read:
    return _fifth_bit(blocks[:, 2:]), _half(blocks, 0), 16


def _read_q5_1(blocks: torch.Tensor) -> _Read:
    return _fifth_bit(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _fifth_bit(octets: torch.Tensor) -> torch.Tensor:
    """4 bytes of upper bits, one an input, then 16 of halves."""
    upper = octets[:, :4].unsqueeze(-1) >> torch.arange(8, device=octets.device) & 1
    return _nibbles(octets[:, 4:].contiguous(), 16) | (upper.flatten(1) << 4).to(torch.uint8)


def _read_q8_0(blocks: torch.Tensor) -> _Read:
    return blocks[:, 2:].contiguous().view(torch.int8), _half(blocks, 0), 0


def _read_q4_k(blocks: torch.Tensor) -> _Read:
    scales, added = _scales_k(blocks)
    return _nibbles(blocks[:, 16:].contiguous(), 32), scales, added


def _read_q5_k(blocks: torch.Tensor) -> _Read:
    scales, added = _scales_k(blocks)
    lower = _nibbles(blocks[:, 48:].contiguous(), 32)
    return lower | _bits(blocks[:, 16:48].contiguous(), 1, 32) << 4, scales, added


def _scales_k(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of 8 groups: two numbers for all, and 6 bits for each, twice; four groups' upper two bits
    stand above the others' six."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 63, rest & 15 | first >> 2 & 48), dim=1)
    lowest = torch.cat((second & 63, rest >> 4 | second >> 2 & 48), dim=1)
    return _half(blocks, 0) * scales, -_half(blocks, 2) * lowest


def _read_q6_k(blocks: torch.Tensor) -> _Read:
    lower = _nibbles(blocks[:, :128].contiguous(), 64)
    upper = _bits(blocks[:, 128:192].contiguous(), 2, 32)
    scales = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8)
    return lower | upper << 4, scales, 32


@dataclass(frozen=True, slots=True)
class _Type:
    """Inputs and bytes of a block, inputs to a scale, and bits of a code as it is kept here."""

    inputs: int
    octets: int
    group: int
    bits: int
    read: Callable[[torch.Tensor], _Read]


_TYPES = {
    "Q4_0": _Type(32, 18, 32, 4, _read_q4_0),
    "Q4_1": _Type(32, 20, 32, 4, _read_q4_1),
    "Q5_0": _Type(32, 22, 32, 8, _read_q5_0),
    "Q5_1": _Type(32, 24, 32, 8, _read_q5_1),
    "Q8_0": _Type(32, 34, 32, 8, _read_q8_0),
    "Q4_K": _Type(256, 144, 32, 4, _read_q4_k),
    "Q5_K": _Type(256, 176, 32, 8, _read_q5_k),
    "Q6_K": _Type(256, 210, 16, 8, _read_q6_k),
}


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """Blocks one after the other, row by row, as bytes (N, bytes of a row)."""

    kind: str

    @property
    def bits_per_weight(self) -> float:
        """As they are kept here: scales, and zeros where there are any, in float32."""
        one = _TYPES[self.kind]
        has_zeros = self.kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")
        return one.bits + (64 if has_zeros else 32) / one.group

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """Of bytes."""
        one = _TYPES[self.kind]
        if inputs % one.inputs:
            raise ValueError(f"{inputs} inputs are no whole number of blocks of {one.inputs}")
        return {"blocks": ((outputs, inputs // one.inputs * one.octets), torch.uint8)}

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """Scales become numbers, and what is added to a group becomes a zero."""
        one, blocks = _TYPES[self.kind], stored["blocks"]
        codes, scales, added = one.read(blocks.reshape(-1, one.octets))
        zeros, shape = None, (len(blocks), -1)
        if isinstance(added, torch.Tensor):
            codes, scales, zeros = _as_zeros(codes, scales, added)
            zeros = zeros.view(shape)
        elif one.bits == 8:
            codes = codes.to(torch.int8) - added
        codes = codes.reshape(shape).to(torch.uint8 if one.bits == 4 else torch.int8)
        return QuantizedWeight(codes, one.bits, one.group, scales.view(shape), zeros)


def _as_zeros(
    codes: torch.Tensor, scales: torch.Tensor, added: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """code * scale + added = (code - zero) * scale. A group whose scale is 0 is all alike: codes 1
    in steps of what is added."""
    is_flat = scales == 0
    steps = torch.where(is_flat, added, scales)
    zeros = torch.where(is_flat, 0, -added / torch.where(steps == 0, 1, steps))
    grouped = codes.view(len(codes), scales.shape[1], -1)
    return torch.where(is_flat.unsqueeze(-1), 1, grouped).flatten(1), steps, zeros
