"""Blocks of GGUF's quantised types == what the format's own library makes of them."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from gguf_files import random_blocks
from glinthawk.core.gguf_settings import PACKED
from glinthawk.tier1.quantized.gguf_blocks import GgufLayout
from glinthawk.tier1.quantized.packed_product import PackedWeight

_ROWS, _INPUTS = 7, 768


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("has_scales", [True, False])
def test_every_type(kind: str, has_scales: bool) -> None:
    """Also where all scales are 0 and what is added is not."""
    blocks = random_blocks(kind, _ROWS, _INPUTS)
    if not has_scales:
        octets = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
        start = 208 if kind == "Q6_K" else 0
        blocks.reshape(-1, octets)[:, start : start + 2] = 0
    truth = torch.from_numpy(np.array(gguf.dequantize(blocks, GGMLQuantizationType[kind])))
    weight = GgufLayout(kind).read({"blocks": torch.from_numpy(blocks)}, _INPUTS)
    largest = truth.abs().max()
    assert (weight.dequantise(torch.float32) - truth).abs().max() <= 1e-6 * largest
    packed = PackedWeight.pack(
        weight.codes, weight.scales, weight.zeros, bits=weight.bits, group=weight.group
    )
    rows = torch.randn(3, _INPUTS)
    torch.testing.assert_close(packed.multiply(rows), rows @ truth.T, rtol=1e-4, atol=1e-4)


def test_rows_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="blocks of 256"):
        GgufLayout("Q4_K").shapes(8, 128, torch.float32)
