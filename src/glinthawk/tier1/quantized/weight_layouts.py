"""How checkpoints store a quantised weight: names, shapes and types of tensors, and their meaning.

Each layout is of one linear layer with K inputs and N outputs. From the formats' own descriptions:
compressed-tensors, GPTQ (AutoGPTQ's and GPTQModel's checkpoints), AWQ's GEMM layout, the blocks of
DeepSeek's FP8, and MXFP4 (OCP Microscaling Formats, version 1.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from glinthawk.tier1.quantized.packed_codes import unpack_columns, unpack_rows
from glinthawk.tier1.quantized.quantized_weight import QuantizedWeight

__all__ = [
    "AwqLayout",
    "GptqLayout",
    "Mxfp4Layout",
    "PackedLayout",
    "PlainLayout",
    "Shapes",
    "Tensors",
    "WeightLayout",
]

Tensors = Mapping[str, torch.Tensor]
Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]

#: AWQ's word of 8 codes: place p, counted from the lowest bits, holds column _AWQ_COLUMNS[p].
_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)

#: Inputs to a scale of MXFP4's.
_MX_BLOCK = 32
#: What MXFP4's codes stand for (E2M1), those without a sign; the others follow, negative.
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class WeightLayout(Protocol):
    """Of one linear layer."""

    @property
    def bits_per_weight(self) -> float:
        """With its share of scales and zero points."""
        ...

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """Of the tensors that stand in the place of its weight, by their names; ``dtype`` is that
        of tensors whose type the format leaves open. Raises ValueError for sizes it cannot have."""
        ...

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """What they say."""
        ...


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """compressed-tensors' "pack-quantized": codes (N, K) in words along K."""

    bits: int
    #: Inputs to a scale; None: all.
    group: int | None
    is_symmetric: bool = True
    #: Whether a tensor says which group each input is of.
    has_order: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Scales have 16 bits; one a row counts for nothing."""
        return self.bits + _share(16 + (0 if self.is_symmetric else self.bits), self.group)

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """Zero points are packed along N."""
        groups, words = _count_groups(inputs, self.group), -(-inputs * self.bits // 32)
        shapes: Shapes = {
            "weight_packed": ((outputs, words), torch.int32),
            "weight_scale": ((outputs, groups), dtype),
            "weight_shape": ((2,), torch.int64),
        }
        if not self.is_symmetric:
            shapes["weight_zero_point"] = ((-(-outputs * self.bits // 32), groups), torch.int32)
        if self.has_order:
            shapes["weight_g_idx"] = ((inputs,), torch.int32)
        return shapes

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """Codes, and zero points too, are kept with half of their range added."""
        codes = unpack_columns(stored["weight_packed"], self.bits)[:, :inputs]
        scales = stored["weight_scale"].float()
        zeros = None
        if not self.is_symmetric:
            zeros = unpack_rows(stored["weight_zero_point"], self.bits)[: len(codes)].float()
        return _settle(codes, self.bits, scales, zeros, stored.get("weight_g_idx"))


@dataclass(frozen=True, slots=True)
class PlainLayout:
    """A code a byte under the weight's own name, int8 or float8 (N, K), and scales: one in all,
    one a row, one for each group of a row, or one for each block of rows and inputs."""

    dtype: torch.dtype
    #: Rows and inputs to a scale; None: all.
    block: tuple[int | None, int | None]
    scale: str = "weight_scale"
    scale_dtype: torch.dtype | None = None
    is_symmetric: bool = True
    #: Scales that stand beside it, for activations, and are not needed.
    ignored: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Of a byte; scales are few."""
        return 8.0

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """The last block of rows, or of inputs, may be smaller."""
        rows, columns = self.block
        count = (-(-outputs // (rows or outputs)), -(-inputs // (columns or inputs)))
        scales = ((1,) if rows is None else count), self.scale_dtype or dtype
        shapes: Shapes = {"weight": ((outputs, inputs), self.dtype), self.scale: scales}
        if not self.is_symmetric:
            shapes["weight_zero_point"] = (scales[0], torch.int8)
        return shapes | {name: ((1,), dtype) for name in self.ignored}

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """Each row gets its block's scales."""
        codes = stored["weight"]
        scales, zeros = (
            self._spread(stored[name], len(codes)) if name in stored else None
            for name in (self.scale, "weight_zero_point")
        )
        assert scales is not None
        return QuantizedWeight(codes, 8, self.block[1] or inputs, scales, zeros)

    def _spread(self, values: torch.Tensor, rows: int) -> torch.Tensor:
        """Those of each row: float32 (N, G)."""
        values = values.float().view(-1, 1) if values.dim() < 2 else values.float()
        return values.repeat_interleave(self.block[0] or rows, dim=0)[:rows].contiguous()


@dataclass(frozen=True, slots=True)
class GptqLayout:
    """Codes (K, N) in words along K, zero points (G, N) along N."""

    bits: int
    group: int | None
    #: In the first version of the format zero points are kept less 1.
    zero_shift: int = 1

    @property
    def bits_per_weight(self) -> float:
        """Scales have 16 bits; one a row counts for nothing."""
        return self.bits + _share(16 + self.bits, self.group)

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """Scales are in float16, whatever the rest is in."""
        groups, fold = _count_groups(inputs, self.group), 32 // self.bits
        if inputs % fold or outputs % fold:
            raise ValueError(f"{inputs} inputs and {outputs} outputs do not fill words of 32 bits")
        return {
            "qweight": ((inputs // fold, outputs), torch.int32),
            "qzeros": ((groups, outputs // fold), torch.int32),
            "scales": ((groups, outputs), torch.float16),
            "g_idx": ((inputs,), torch.int32),
        }

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """Codes as rows of outputs."""
        codes = unpack_rows(stored["qweight"], self.bits).t()
        mask = (1 << self.bits) - 1
        zeros = unpack_columns(stored["qzeros"], self.bits).int() + self.zero_shift & mask
        scales = stored["scales"].float().t().contiguous()
        return _settle(codes, self.bits, scales, zeros.float().t(), stored["g_idx"])


@dataclass(frozen=True, slots=True)
class AwqLayout:
    """Codes (K, N) and zero points (G, N) of 4 bits, in words along N with shuffled columns."""

    group: int | None
    has_zeros: bool = True

    @property
    def bits_per_weight(self) -> float:
        """Scales have 16 bits; one a row counts for nothing."""
        return 4 + _share(16 + (4 if self.has_zeros else 0), self.group)

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """Scales are in float16, whatever the rest is in."""
        groups = _count_groups(inputs, self.group)
        if outputs % 8:
            raise ValueError(f"{outputs} outputs do not fill words of 32 bits")
        shapes: Shapes = {
            "qweight": ((inputs, outputs // 8), torch.int32),
            "scales": ((groups, outputs), torch.float16),
        }
        if self.has_zeros:
            shapes["qzeros"] = ((groups, outputs // 8), torch.int32)
        return shapes

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """Codes as rows of outputs."""
        codes = _in_order(stored["qweight"]).t()
        scales = stored["scales"].float().t().contiguous()
        zeros = _in_order(stored["qzeros"]).float().t() if self.has_zeros else None
        return _settle(codes, 4, scales, zeros, None)


@dataclass(frozen=True, slots=True)
class Mxfp4Layout:
    """Blocks of 32 inputs: 16 bytes, the lower half of each being the earlier input, and a scale
    that is an exponent of 2, 127 added."""

    @property
    def bits_per_weight(self) -> float:
        """Scales are kept with 16 bits here."""
        return 4 + _share(16, _MX_BLOCK)

    def shapes(self, outputs: int, inputs: int, dtype: torch.dtype) -> Shapes:
        """Of bytes."""
        blocks = _count_groups(inputs, _MX_BLOCK)
        return {
            "blocks": ((outputs, blocks, _MX_BLOCK // 2), torch.uint8),
            "scales": ((outputs, blocks), torch.uint8),
        }

    def read(self, stored: Tensors, inputs: int) -> QuantizedWeight:
        """Codes stay; scales become numbers."""
        octets = stored["blocks"].flatten(1)
        codes = torch.stack((octets & 0xF, octets >> 4), dim=-1).flatten(1)
        exponents = stored["scales"].int() - 127
        scales = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)
        values = torch.tensor(_FP4, device=codes.device)
        table = torch.cat([values, -values])
        return QuantizedWeight(codes, 4, _MX_BLOCK, scales, table=table)


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """int32 (R, N / 8) -> uint8 (R, N)."""
    places = torch.argsort(torch.tensor(_AWQ_COLUMNS))
    return unpack_columns(words, 4).view(len(words), -1, 8)[:, :, places].flatten(1)


def _share(bits: int, group: int | None) -> float:
    return 0.0 if group is None else bits / group


def _count_groups(inputs: int, group: int | None) -> int:
    if group is not None and inputs % group:
        raise ValueError(f"{inputs} inputs are no whole number of groups of {group}")
    return inputs // (group or inputs)


def _settle(
    codes: torch.Tensor,
    bits: int,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    group_of: torch.Tensor | None,
) -> QuantizedWeight:
    """Unsigned ``codes``, with their columns put in order of their groups; those of 8 bits, and
    their zeros, become signed. Without ``zeros``, half of the codes' range is taken away."""
    order, group = None, codes.shape[1] // scales.shape[1]
    if group_of is not None and not _is_in_order(group_of, group):
        order = torch.argsort(group_of, stable=True)
        codes = codes[:, order]
    if bits == 8:
        codes = (codes.int() - 128).to(torch.int8)
        zeros = None if zeros is None else zeros - 128
    if zeros is not None:
        zeros = zeros.contiguous() if (zeros != (8 if bits == 4 else 0)).any() else None
    return QuantizedWeight(codes.contiguous(), bits, group, scales, zeros, order)


def _is_in_order(group_of: torch.Tensor, group: int) -> bool:
    plain = torch.arange(len(group_of), device=group_of.device) // group
    return torch.equal(group_of.long(), plain)
