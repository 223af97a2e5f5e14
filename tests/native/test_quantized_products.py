"""Products with quantised weights: right for every kind of code, and a row's bits are its own."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_steps import require

from glinthawk import _native
from glinthawk.tier1.quantized.packed_product import PackedWeight
from glinthawk.tier1.quantized.plain_product import dequantise, multiply_plainly

ISAS = ("portable", "avx2", "avx512", "avx512_bf16", "amx")
KINDS = ("int4", "int8", "uint8", "fp8", "table")
NF4 = torch.tensor(
    [
        *(-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0),
        *(0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0),
    ]
)
FP4 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
#: Of an element's error: a rounding of the output, and of an entry of a table.
_ROUNDING = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
_ENTRY = 2.0**-8


@dataclass(frozen=True)
class Weight:
    """What a weight is packed from, and what it is."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    table: torch.Tensor | None
    bits: int
    group: int

    def packed(self) -> PackedWeight:
        return PackedWeight.pack(
            self.codes, self.scales, self.zeros, self.table, bits=self.bits, group=self.group
        )

    def plain(self) -> torch.Tensor:
        return dequantise(
            self.codes, self.scales, self.zeros, self.table, bits=self.bits, group=self.group
        )


def make_weight(
    kind: str, outputs: int, inputs: int, group: int, zeros: bool = False, seed: int = 0
) -> Weight:
    """Random codes; bfloat16 has the scales of an even seed, and not those of an odd one."""
    torch.manual_seed(seed)
    shape, groups = (outputs, inputs), -(-inputs // group)
    bits = 4 if kind in ("int4", "table") else 8
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    if kind == "int8":
        codes = codes.view(torch.int8)
    if kind == "fp8":
        codes = (codes & 0xBF).view(torch.float8_e4m3fn)  # no NaN
    scales = torch.rand(outputs, groups) * 0.1 + 0.01
    low = -(2 ** (bits - 1)) if kind == "int8" else 0
    zero = torch.randint(low, low + 2**bits, (outputs, groups)).float()
    has_zeros = zeros and kind in ("int4", "int8", "uint8")
    table = (NF4 if seed % 3 else FP4) if kind == "table" else None
    if seed % 2 == 0:
        scales = scales.bfloat16().float()
    return Weight(codes, scales, zero if has_zeros else None, table, bits, group)


def check_product(weight: Weight, x: torch.Tensor, bias: torch.Tensor | None, isa: str) -> None:
    """Within what rounding the codes' products, their sum and the output may cost."""
    plain, rows = weight.plain().double(), x.double()
    found = weight.packed().multiply(x, bias, isa)
    expected = rows @ plain.T + (0 if bias is None else bias.double())
    reach = weight.codes.float().abs().amax().double().clamp(min=2 ** (weight.bits - 1))
    zeros = 0 if weight.zeros is None else weight.zeros.abs().amax().double()
    largest = plain.abs() if weight.table is not None else weight.scales.amax() * (reach + zeros)
    magnitude = rows.abs() @ torch.broadcast_to(largest, plain.shape).T
    entries = _ENTRY * (rows.abs() @ plain.abs().T) if weight.table is not None else 0
    assert found.shape == expected.shape
    assert found.dtype == x.dtype
    allowed = _ROUNDING[x.dtype] * expected.abs() + 1e-5 * (magnitude + 1) + entries
    assert bool(((found.double() - expected).abs() <= allowed).all())


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 20),
    outputs=st.integers(1, 90),
    inputs=st.integers(1, 400),
    group=st.sampled_from([8, 16, 24, 32, 64, 128, 400]),
    zeros=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from(list(_ROUNDING)),
    seed=st.integers(0, 99),
)
def test_it_is_the_product(
    isa: str,
    kind: str,
    rows: int,
    outputs: int,
    inputs: int,
    group: int,
    zeros: bool,
    bias: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    weight = make_weight(kind, outputs, inputs, min(group, inputs), zeros, seed)
    x = torch.randn(rows, inputs).to(dtype)
    check_product(weight, x, torch.randn(outputs) if bias else None, require(isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_what_it_stands_for(isa: str, kind: str) -> None:
    """Rows of the identity give the weight back, in the dtype of the row."""
    require(isa)
    bits = 4 if kind in ("int4", "table") else 8
    weight = make_weight(kind, 2**bits, 16, 16, seed=3)
    codes = torch.arange(2**bits, dtype=torch.uint8).unsqueeze(1).expand(-1, 16).contiguous()
    scales = torch.ones(2**bits, 1)
    codes = codes.view(weight.codes.dtype)
    every = Weight(codes, scales, None, weight.table, bits, 16)
    for dtype in (torch.float32, torch.bfloat16):
        found = every.packed().multiply(torch.eye(16, dtype=dtype), isa=isa)
        expected = every.plain().T.to(dtype)
        assert torch.equal(found.nan_to_num(nan=999), expected.nan_to_num(nan=999))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 40),
    first=st.integers(0, 39),
    count=st.integers(1, 40),
    outputs=st.sampled_from([1, 16, 70, 250]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.integers(1, 3),
)
def test_a_rows_bits_are_its_own(
    isa: str,
    kind: str,
    rows: int,
    first: int,
    count: int,
    outputs: int,
    dtype: torch.dtype,
    threads: int,
) -> None:
    """Alone, among others, in another place, on other threads."""
    ours = make_weight(kind, outputs, 136, 32, zeros=True).packed()
    x = torch.randn(rows, 136).to(dtype)
    first %= rows
    before = torch.get_num_threads()
    whole = ours.multiply(x, isa=require(isa))
    torch.set_num_threads(threads)
    try:
        part = ours.multiply(x[first : first + count], isa=isa)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(part, whole[first : first + count])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_in_its_row(isa: str, kind: str, bad: float) -> None:
    ours = make_weight(kind, 40, 100, 100, zeros=True).packed()
    x = torch.randn(11, 100).bfloat16()
    clean = ours.multiply(x, isa=require(isa))
    x[4, 99] = bad
    found = ours.multiply(x, isa=isa)
    others = torch.arange(11) != 4
    assert torch.equal(found[others], clean[others])
    assert not found[4].isfinite().any()


@pytest.mark.parametrize("isa", ISAS)
def test_a_code_that_is_no_number_stays_in_its_output(isa: str) -> None:
    weight = make_weight("fp8", 40, 64, 64)
    x = torch.randn(9, 64)
    clean = weight.packed().multiply(x, isa=require(isa))
    weight.codes.view(torch.uint8)[17, 5] = 0x7F
    found = weight.packed().multiply(x, isa=isa)
    others = torch.arange(40) != 17
    assert torch.equal(found[:, others], clean[:, others])
    assert found[:, 17].isnan().all()


def test_zeros_that_nobody_gives_are_in_the_middle() -> None:
    x = torch.randn(3, 64)
    for kind, zero in (("int4", 8.0), ("uint8", 128.0), ("int8", 0.0)):
        plain = make_weight(kind, 20, 64, 32)
        given_zeros = Weight(
            plain.codes, plain.scales, torch.full((20, 2), zero), None, plain.bits, 32
        )
        found, expected = (weight.packed().multiply(x) for weight in (plain, given_zeros))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_leading_dimensions_and_the_plain_product() -> None:
    weight, bias = make_weight("int4", 48, 64, 64), torch.randn(48)
    ours, x = weight.packed(), torch.randn(2, 3, 64)
    assert torch.equal(ours.multiply(x).flatten(0, 1), ours.multiply(x.flatten(0, 1)))
    assert ours.multiply(x[:, :0]).shape == (2, 0, 48)
    assert torch.equal(ours.multiply(x.mT.contiguous().mT), ours.multiply(x))
    plain = multiply_plainly(x, weight.plain(), bias)
    torch.testing.assert_close(ours.multiply(x, bias), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "group"), [("int4", 128), ("int8", 4096), ("table", 16)])
@pytest.mark.parametrize("seed", [0, 1])
def test_memory_is_that_of_codes_and_scales(kind: str, group: int, seed: int) -> None:
    weight = make_weight(kind, 256, 4096, group, seed=seed)
    codes = weight.codes.numel() * weight.bits // 8
    scales = weight.scales.numel() * (2 if seed == 0 else 4)
    assert weight.packed().packed.nbytes <= 1.02 * (codes + scales)


# What does not fit


_CODES, _SCALES = torch.zeros(4, 32, dtype=torch.uint8), torch.ones(4, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3},
        {"bits": 0},
        {"codes": _CODES.view(torch.int8)},
        {"codes": _CODES.float()},
        {"codes": _CODES[0]},
        {"codes": _CODES[:0]},
        {"codes": _CODES[:, :0]},
        {"codes": _CODES + 16},
        {"codes": _CODES[:1, :1].expand(1, 2**31)},
        {"codes": _CODES[:1, :1].expand(2**31, 1)},
        {"codes": torch.empty(2**31, 2**31, dtype=torch.uint8, device="meta")},
        {"scales": _SCALES[:3]},
        {"scales": _SCALES[0]},
        {"scales": _SCALES.repeat(1, 2)[:, :3]},
        {"scales": _SCALES.repeat(1, 4)},
        {"scales": _SCALES.to(torch.complex64)},
        {"zeros": _SCALES[:, :1]},
        {"zeros": _SCALES, "table": FP4},
        {"zeros": _SCALES, "codes": _CODES.view(torch.float8_e4m3fn), "bits": 8},
        {"table": FP4[:15]},
        {"table": FP4, "bits": 8},
        {"group": 0},
        {"group": -8},
        {"group": 12},
        {"group": 8},
        {"group": 32},
    ],
)
def test_weights_that_cannot_be(change: dict) -> None:
    good = {"codes": _CODES, "scales": _SCALES, "bits": 4}
    PackedWeight.pack(**good)
    with pytest.raises(ValueError, match=r"\w"):
        PackedWeight.pack(**(good | change))


def test_rows_that_do_not_fit() -> None:
    ours = PackedWeight.pack(_CODES, _SCALES, bits=4)
    x = torch.zeros(3, 32)
    for wrong in (x[:, :31], x.double(), x.int(), x[0, 0], x.to("meta"), x[:, :0]):
        with pytest.raises(ValueError, match="rows"):
            ours.multiply(wrong)
    for bias in (torch.zeros(3), torch.zeros(1, 4), torch.zeros(4, device="meta")):
        with pytest.raises(ValueError, match="bias"):
            ours.multiply(x, bias)
    with pytest.raises(ValueError, match="instruction set mmx"):
        ours.multiply(x, isa="mmx")


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-9, 99), min_size=6, max_size=6)
)
def test_shapes_are_refused_or_have_a_size(numbers: list[int]) -> None:
    try:
        shape = _native.PackedShape(*numbers)
    except ValueError:
        return
    outputs, inputs, group, bits, *_ = numbers
    assert inputs % 8 == group % 8 == 0 < group <= inputs
    assert shape.bytes >= outputs * inputs * bits // 8
