"""What is replaced in a model computes the same, and nothing else is replaced."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from families import FAMILIES, make_model
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.forward.cpu_kernels import NativeKernels
from glinthawk.tier1.forward.joining import JoinedProduct, join_model
from glinthawk.tier1.forward.norms import FusedNorm, match_norm
from glinthawk.tier1.forward.packing import GatedMLP, PackedLinear, pack_model
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier1.model.self_check import check_cut
from glinthawk.tier2.cache import KVCache

bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU packs no bfloat16"
)


def distance(ours: torch.Tensor, own: torch.Tensor) -> float:
    return float((ours.float() - own.float()).norm() / own.float().norm())


@bfloat16
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 64, 300])
def test_a_packed_linear_layer_multiplies_as_before(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 130, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(1, rows, 96).bfloat16()
    with torch.inference_mode():
        packed = PackedLinear(linear)
        truth = nn.functional.linear(
            x.float(), linear.weight.float(), None if linear.bias is None else linear.bias.float()
        )
        assert distance(packed(x), truth) < 0.005
        assert torch.equal(packed.weight, linear.weight)
        strided = torch.randn(1, rows, 192).bfloat16()[..., ::2]
        torch.testing.assert_close(packed(strided), packed(strided.contiguous()))


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 9),
    size=st.integers(1, 40).map(lambda n: 16 * n),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 99),
)
def test_a_fused_norm_is_the_formula(rows: int, size: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(2, rows, size, generator=generator)).to(dtype)
    weight = torch.randn(size, generator=generator).to(dtype)
    wide = x.double()
    truth = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    ours = FusedNorm(weight, 1e-5, NativeKernels())(x)
    assert ours.dtype == dtype
    assert distance(ours, truth) < 2 * torch.finfo(dtype).eps


def test_a_norm_of_another_formula_is_left_alone() -> None:
    class ShiftedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.rand(32)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight + 0.5

    assert match_norm(ShiftedRMSNorm(), NativeKernels()) is None
    assert match_norm(nn.LayerNorm(32), NativeKernels()) is None


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


#: Its random router chooses other experts at the least rounding, packed or not.
UNSTABLE = {"deepseek_v3"}


@bfloat16
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - UNSTABLE))
def test_every_family_says_the_same_when_packed(tmp_path: Path, family: str) -> None:
    path = make_model(tmp_path, family)
    loaded = load_model(EngineConfig(model=str(path), dtype="bfloat16"))
    assert nn.Linear not in kinds(loaded.model)
    cache = KVCache(loaded.spec.layers, 1 << 22, "bfloat16")
    check_cut(loaded.model, loaded.spec, LocalHome(0, cache), loaded.truth)


@bfloat16
@pytest.mark.parametrize(
    ("family", "gated"),
    [("llama", True), ("gemma2", True), ("qwen3", True), ("gpt2", False), ("phi3", False)],
)
def test_gated_mlps_are_known_by_what_they_compute(
    tmp_path: Path, family: str, gated: bool
) -> None:
    path = make_model(tmp_path, family)
    model = load_model(EngineConfig(model=str(path), dtype="bfloat16")).model
    assert (GatedMLP in kinds(model)) == gated


def test_float32_and_plain_models_are_left_as_they_are(tmp_path: Path) -> None:
    path = str(make_model(tmp_path, "llama"))
    for config in (EngineConfig(model=path), EngineConfig(model=path, dense="plain")):
        model = load_model(config).model
        assert not kinds(model) & {PackedLinear, GatedMLP, FusedNorm}


def test_an_mlp_that_only_looks_gated_is_not_fused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = ((32, 64), (32, 64), (64, 32))
            self.gate_proj, self.up_proj, self.down_proj = (
                nn.Linear(*size, dtype=torch.bfloat16) for size in sizes
            )
            self.act_fn = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))

    with torch.inference_mode():
        outer = nn.Sequential(Odd())
        if pack_model(outer):
            assert type(outer[0]) is Odd


@bfloat16
@pytest.mark.parametrize("replace", [pack_model, join_model])
def test_old_weights_go_as_their_layers_are_replaced(
    tmp_path: Path, replace: Callable[[nn.Module], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that just fits into memory is not held twice while it is packed."""
    path = str(make_model(tmp_path, "llama"))
    model = load_model(EngineConfig(model=path, dense="plain", dtype="bfloat16")).model
    old = [weakref.ref(m.weight) for m in model.modules() if type(m) is nn.Linear]
    alive: list[int] = []

    def count(module: nn.Module, *rest: Any) -> None:
        alive.append(sum(one() is not None for one in old))

    for kind in (PackedLinear, JoinedProduct):
        made = kind.__init__
        monkeypatch.setattr(
            kind, "__init__", lambda *given, made=made: (made(*given), count(*given))[0]
        )
    with torch.inference_mode():
        replace(model)
    del model
    a_layer = 7
    assert len(alive) >= 6
    assert alive[-1] <= len(old) - len(alive) + 1 + a_layer
    assert alive[-1] < alive[0]
