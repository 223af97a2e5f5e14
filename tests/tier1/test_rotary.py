"""Fused rotary embedding is that of the family, in this module and in no other."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama import modeling_llama

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.forward.cpu_kernels import NativeKernels
from glinthawk.tier1.forward.rotary import fuse_rotary
from glinthawk.tier1.model.loader import load_model


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 9),
    heads=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    size=st.sampled_from([32, 64, 96, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    joined=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_rotates_as_llama_does(
    tokens: int, heads: tuple[int, int], size: int, dtype: torch.dtype, joined: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, tokens, sum(heads), size, generator=generator).to(dtype)
    q, k = rows.split(heads, dim=2)
    if not joined:  # views of one projection are rows with gaps between them
        q, k = q.contiguous(), k.contiguous()
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    angles = torch.randn(1, tokens, size, generator=generator)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    wide = [tensor.double() for tensor in (q, k, cos, sin)]
    truth = modeling_llama.apply_rotary_pos_emb(*wide)
    for ours, own in zip(NativeKernels().rotate(q, k, cos, sin), truth, strict=True):
        assert ours.shape == own.shape
        assert ours.dtype == dtype
        assert (ours.double() - own).abs().max() < 4 * torch.finfo(dtype).eps


def _attention(folder: Path, family: str) -> torch.nn.Module:
    model = load_model(EngineConfig(model=str(make_model(folder, family)))).model
    return next(m for m in model.modules() if type(m).__name__.endswith("Attention"))


@pytest.mark.parametrize(
    ("family", "fused"), [("llama", True), ("qwen3", True), ("gpt2", False), ("cohere", False)]
)
def test_only_what_rotates_halves_is_fused(tmp_path: Path, family: str, fused: bool) -> None:
    attention = _attention(tmp_path, family)
    before = type(attention).forward
    assert fuse_rotary(attention, NativeKernels()) == fused
    assert type(attention).forward is before
    assert ("forward" in vars(attention)) == fused
    assert fuse_rotary(attention, NativeKernels()) is False  # once is enough
