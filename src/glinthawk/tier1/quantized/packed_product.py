"""Products with weights that stay quantised, by the C++ extension.

A weight (N, K) has codes of 4 or 8 bits, and a scale, perhaps a zero, for each group of inputs of
each output. What codes are is known by their dtype:

| codes | bits | value |
| --- | --- | --- |
| ``uint8`` | 4 or 8 | code - zero; where no zeros are given they are 8 or 128 |
| ``uint8`` with a table of 16 floats | 4 | table[code] |
| ``int8`` | 8 | code - zero; where no zeros are given they are 0 |
| ``float8_e4m3fn`` | 8 | the number |

Codes are exact. A table's entries are rounded to bfloat16, as rows are multiplied in it; those of
FP4 are exact. Sums are float32, and scaled in float32.

On machines alike a row's bits depend on that row and the weight alone: not on other rows, nor on
threads. A row with an infinity or NaN comes out without a finite number, others as ever.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F

from glinthawk import _native
from glinthawk.core.openmp import find_team

__all__ = ["PackedWeight"]

#: Inputs of a packed weight, and of a group, are a multiple of it.
_STEP = 8
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_FP8 = torch.float8_e4m3fn
#: Outputs, and inputs, that sizes of the extension can hold.
_MOST = 2**31 - 256


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight (out_features, in_features) as the kernels read it."""

    in_features: int
    out_features: int
    #: Bytes, in the layout of native/src/quantized/packed_weight.hpp.
    packed: torch.Tensor
    _shape: _native.PackedShape
    #: Of each code, float32, and what is added to all of them where the weight has no zeros.
    _values: torch.Tensor
    _offset: float

    @classmethod
    def pack(
        cls,
        codes: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor | None = None,
        table: torch.Tensor | None = None,
        *,
        bits: int,
        group: int | None = None,
    ) -> "PackedWeight":
        """Pack ``codes`` (N, K), one a byte; ``scales`` and ``zeros`` are (N, groups).

        A group is K / groups inputs where that is whole, else it must be given: the last one is
        shorter then. Groups are multiples of 8 inputs, or a whole row. Scales and zeros are kept in
        bfloat16 where that is exact, else in float32. Raises ValueError for what does not fit.
        """
        _check_codes(codes, table, bits)
        num_outputs, num_inputs = codes.shape
        group = _group(num_inputs, scales, group)
        for name, numbers in (("scales", scales), ("zeros", zeros)):
            _check_numbers(name, numbers, num_outputs, -(-num_inputs // group))
        if zeros is not None and (table is not None or codes.dtype == _FP8):
            raise ValueError("numbers and entries of a table have no zeros")
        book = _Codebook.of(codes.dtype, bits, table)
        scales = scales.float().contiguous()
        offsets = None if zeros is None else (book.centre - zeros.float()).contiguous()
        filled = -(-num_inputs // _STEP) * _STEP
        shape = _native.PackedShape(
            num_outputs, filled, min(group, filled), bits, _bytes(scales), _bytes(offsets)
        )
        packed = torch.empty(shape.bytes, dtype=torch.uint8)
        plain = codes.contiguous().view(torch.uint8)
        _native.pack_quantized(
            shape,
            packed.data_ptr(),
            plain.data_ptr(),
            book.recode.data_ptr(),
            scales.data_ptr(),
            0 if offsets is None else offsets.data_ptr(),
            num_inputs,
        )
        offset = book.default_offset if offsets is None else 0.0
        return cls(num_inputs, num_outputs, packed, shape, book.values, offset)

    def multiply(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, isa: str = "auto"
    ) -> torch.Tensor:
        """(..., in) -> (..., out) in the dtype of ``x``: float32, bfloat16 or float16.

        ``isa`` names an instruction set, for tests.
        """
        self._check(x, bias)
        narrow = x.dtype == torch.bfloat16 and _multiplies(isa, "bfloat16")
        rows = _fill_up(x if narrow else x.float()).contiguous()
        output = rows.new_empty(*x.shape[:-1], self.out_features)
        if bias is not None:
            bias = bias.float().contiguous()
        _native.multiply_quantized(
            self._shape,
            output.data_ptr(),
            rows.data_ptr(),
            self.packed.data_ptr(),
            self._values.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            self._offset,
            rows.numel() // rows.shape[-1],
            "bfloat16" if narrow else "float32",
            isa,
            torch.get_num_threads(),
            *find_team(),
        )
        return output.to(x.dtype)

    def _check(self, x: torch.Tensor, bias: torch.Tensor | None) -> None:
        if x.dtype not in _FLOATS or x.device.type != "cpu" or x.dim() < 1:
            raise ValueError(f"rows are floats on the CPU, not {x.dtype} on {x.device}")
        if x.shape[-1] != self.in_features:
            raise ValueError(f"rows of {x.shape[-1]} inputs, a weight of {self.in_features}")
        if bias is not None and (bias.shape != (self.out_features,) or bias.device.type != "cpu"):
            raise ValueError(f"a bias is ({self.out_features},), not {tuple(bias.shape)}")
        if self.packed.shape != (self._shape.bytes,) or not self.packed.is_contiguous():
            raise ValueError("this is not what was packed")


@dataclass(frozen=True, slots=True)
class _Codebook:
    """What a code is kept as, and what that stands for.

    A value is ``code - centre`` where codes are whole numbers. Kernels look up eight bits as a sign
    and seven bits, so whole numbers of eight bits become halves: ±0.5 to ±127.5.
    """

    recode: torch.Tensor  # (256,) uint8
    values: torch.Tensor  # (16,) or (256,) float32
    centre: float
    default_offset: float

    @classmethod
    def of(cls, dtype: torch.dtype, bits: int, table: torch.Tensor | None) -> "_Codebook":
        every = torch.arange(256, dtype=torch.uint8)
        if dtype == _FP8:
            return cls(every, every.view(_FP8).float(), 0.0, 0.0)
        if bits == 4:
            values = torch.arange(-8.0, 8.0) if table is None else table.bfloat16().float()
            return cls(every, values.contiguous(), 8.0, 0.0)
        magnitudes = torch.arange(0.5, 128)
        values = torch.cat([magnitudes, -magnitudes])
        whole = every.view(torch.int8).int() if dtype == torch.int8 else every.int() - 128
        recode = torch.where(whole >= 0, whole, 127 - whole).to(torch.uint8)
        return cls(recode, values, -0.5 if dtype == torch.int8 else 127.5, -0.5)


def _check_codes(codes: torch.Tensor, table: torch.Tensor | None, bits: int) -> None:
    kinds = {4: (torch.uint8,), 8: (torch.uint8, torch.int8, _FP8)}
    if bits not in kinds:
        raise ValueError(f"codes have 4 or 8 bits, not {bits}")
    if codes.dtype not in kinds[bits] or codes.dim() != 2 or not _fits(codes.shape):
        raise ValueError(f"no weight has {tuple(codes.shape)} codes of {bits} bits, {codes.dtype}")
    if codes.device.type != "cpu":
        raise ValueError(f"codes are on {codes.device}, and are packed on the CPU")
    if table is not None and (bits != 4 or table.shape != (16,)):
        raise ValueError(f"a table is (16,), for codes of 4 bits, not {tuple(table.shape)}")
    if bits == 4 and int(codes.max()) > 15:
        raise ValueError(f"a code of 4 bits is 0 to 15, not {int(codes.max())}")


def _fits(shape: torch.Size) -> bool:
    return all(0 < size <= _MOST for size in shape)


def _check_numbers(name: str, numbers: torch.Tensor | None, outputs: int, groups: int) -> None:
    if numbers is not None and (
        numbers.shape != (outputs, groups) or numbers.device.type != "cpu" or numbers.is_complex()
    ):
        raise ValueError(f"{name} are ({outputs}, {groups}), not {tuple(numbers.shape)}")


def _group(num_inputs: int, scales: torch.Tensor, group: int | None) -> int:
    """Inputs that share a scale, a multiple of 8 where there are several."""
    num_groups = scales.shape[-1] if scales.dim() == 2 else 0
    if group is None:
        if not num_groups or num_inputs % num_groups:
            raise ValueError(f"{num_groups} groups of {num_inputs} inputs: say how long a group is")
        group = num_inputs // num_groups
    if group >= num_inputs:
        return -(-num_inputs // _STEP) * _STEP
    if group < _STEP or group % _STEP:
        raise ValueError(f"a group is a multiple of {_STEP} inputs or a whole row, not {group}")
    return group


def _bytes(numbers: torch.Tensor | None) -> int:
    """Of each number as it is kept: the smallest that is exact."""
    if numbers is None:
        return 0
    return 2 if torch.equal(numbers.bfloat16().float(), numbers) else 4


def _fill_up(x: torch.Tensor) -> torch.Tensor:
    """Zeros at the end of the last dimension."""
    missing = -x.shape[-1] % _STEP
    return F.pad(x, (0, missing)) if missing else x


@cache
def _multiplies(isa: str, dtype: str) -> bool:
    return _native.multiplies_quantized(isa, dtype)
