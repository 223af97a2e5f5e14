"""Products of rows and packed weights: right, and a row's bits are its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from glinthawk.tier1.forward.tile_linear import TileLinear, has_tiles

KINDS = [
    pytest.param(True, id="emulated"),
    pytest.param(False, id="amx", marks=pytest.mark.skipif(not has_tiles(), reason="no AMX here")),
]
#: Of one element's error, in units of its rounding to bfloat16, beside that of the sum.
_ROUNDING = 2.0**-8


def _linear(inputs: int, outputs: int, bias: bool, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)


@pytest.mark.parametrize("emulated", KINDS)
@settings(max_examples=25)
@given(
    rows=st.integers(1, 90),
    inputs=st.integers(1, 1200),
    outputs=st.integers(1, 140),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@torch.inference_mode()
def test_it_is_the_product(
    emulated: bool, rows: int, inputs: int, outputs: int, bias: bool, seed: int
) -> None:
    linear = _linear(inputs, outputs, bias, seed)
    ours = TileLinear(linear, emulated)
    assert torch.equal(ours.weight, linear.weight)
    x = torch.randn(rows, inputs).bfloat16()
    expected = x.double() @ linear.weight.double().T
    if bias:
        expected += linear.bias.double()
    magnitude = x.double().abs() @ linear.weight.double().abs().T + 1
    found = ours(x)
    assert found.shape == (rows, outputs)
    error = (found.double() - expected).abs()
    assert bool((error <= _ROUNDING * expected.abs() + 1e-5 * magnitude).all())


@pytest.mark.parametrize("emulated", KINDS)
@settings(max_examples=25)
@given(
    rows=st.integers(1, 150),
    first=st.integers(0, 149),
    count=st.integers(1, 150),
    inputs=st.sampled_from([32, 40, 544, 1100]),
    threads=st.integers(1, 3),
)
@torch.inference_mode()
def test_a_rows_bits_are_its_own(
    emulated: bool, rows: int, first: int, count: int, inputs: int, threads: int
) -> None:
    """Alone, among others, in another place, on other threads."""
    ours = TileLinear(_linear(inputs, 70, True, 5), emulated)
    x = torch.randn(rows, inputs).bfloat16()
    first %= rows
    part = x[first : first + count]
    before = torch.get_num_threads()
    whole = ours(x)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(ours(part), whole[first : first + count])
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_leading_dimensions_stay() -> None:
    ours = TileLinear(_linear(64, 48, False, 1), emulated=True)
    x = torch.randn(2, 3, 64).bfloat16()
    assert torch.equal(ours(x).flatten(0, 1), ours(x.flatten(0, 1)))
    assert ours(x[:, :0]).shape == (2, 0, 48)
