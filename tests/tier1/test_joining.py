"""On a GPU, joined products and Triton's kernels compute what the modules before them did. Without
one, the kernels run in Triton's interpreter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama import modeling_llama

from cluster import open_cluster
from families import FAMILIES, make_model
from glinthawk.core.config import EngineConfig
from glinthawk.tier1.forward import joining
from glinthawk.tier1.forward.closeness import distance
from glinthawk.tier1.forward.cut import Call, Pass
from glinthawk.tier1.forward.gpu_kernels import TritonKernels
from glinthawk.tier1.forward.joining import JoinedMLP, JoinedPart, join_model
from glinthawk.tier1.forward.norms import FusedNorm
from glinthawk.tier1.kv.home import LocalHome
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier1.model.self_check import check_cut
from glinthawk.tier2.cache import KVCache
from model_cases import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = TritonKernels()
_TYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(
    rows=st.integers(1, 9),
    heads=st.integers(1, 5),
    size=st.integers(1, 150),
    dtype=_TYPES,
    seed=st.integers(0, 99),
)
def test_a_norm_is_the_formula(
    rows: int, heads: int, size: int, dtype: torch.dtype, seed: int
) -> None:
    """Of whole rows, of contiguous heads, and of heads that are a view of a joined product."""
    joined = (3 * _random(seed, 1, rows, (heads + 2) * size)).to(DEVICE, dtype)
    factor = _random(seed + 1, size).to(DEVICE)
    view = joined[..., size : (heads + 1) * size].view(1, rows, heads, size)
    for x in (view, view.contiguous(), view.reshape(1, rows * heads, size)):
        wide = x.double()
        truth = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * factor.double()
        ours = KERNELS.rms_norm(x, factor, 1e-5)
        assert ours.dtype == dtype
        assert ours.shape == x.shape
        assert distance(ours, truth) < 2 * torch.finfo(dtype).eps


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 6),
    heads=st.tuples(st.integers(1, 9), st.integers(1, 3)),
    size=st.sampled_from([16, 32, 96, 128]),
    dtype=_TYPES,
    joined=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_rotates_as_llama_does(
    tokens: int,
    heads: tuple[int, int],
    size: int,
    dtype: torch.dtype,
    joined: bool,
    seed: int,
) -> None:
    rows = _random(seed, 1, tokens, sum(heads), size).to(DEVICE, dtype)
    q, k = rows.split(heads, dim=2)
    if not joined:
        q, k = q.contiguous(), k.contiguous()
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    angles = _random(seed + 1, 1, tokens, size)
    cos, sin = (each.to(DEVICE, dtype) for each in (angles.cos(), angles.sin()))
    truth = modeling_llama.apply_rotary_pos_emb(*(t.double() for t in (q, k, cos, sin)))
    for ours, own in zip(KERNELS.rotate(q, k, cos, sin), truth, strict=True):
        assert ours.shape == own.shape
        assert ours.dtype == dtype
        assert (ours.double() - own).abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("silu", F.silu),
        ("gelu", F.gelu),
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("relu", F.relu),
    ],
    ids=["silu", "gelu", "gelu_tanh", "relu"],
)
@pytest.mark.parametrize("size", [1, 96, 1500])
def test_a_gate_is_its_formula(name: str, function: Any, size: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        joined = (3 * _random(0, 1, 5, 2 * size)).to(DEVICE, dtype)
        gate, up = joined.double().split(size, dim=-1)
        ours = KERNELS.gate(joined, name)
        assert ours.dtype == dtype
        assert distance(ours, function(gate) * up) < 2 * torch.finfo(dtype).eps


def _load(folder: Path, family: str, **settings: Any) -> LoadedModel:
    """Joined, whatever the device is."""
    path = make_model(folder, family, **settings)
    loaded = load_model(EngineConfig(model=str(path), device=DEVICE, dense="plain"))
    with torch.inference_mode():
        join_model(loaded.model)
    return loaded


def _kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_says_the_same_when_joined(tmp_path: Path, family: str) -> None:
    loaded = _load(tmp_path, family)
    cache = KVCache(loaded.spec.layers, 1 << 22, "float32", torch.device(DEVICE))
    check_cut(loaded.model, loaded.spec, LocalHome(0, cache), loaded.truth)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("llama", {JoinedPart, JoinedMLP, FusedNorm}),
        ("qwen2", {JoinedPart, JoinedMLP, FusedNorm}),
        ("gemma2", {JoinedPart, JoinedMLP, FusedNorm}),
        ("mixtral", {JoinedPart, FusedNorm}),
        ("phi3", {FusedNorm}),
        ("gpt2", set()),
    ],
)
def test_what_is_replaced(tmp_path: Path, family: str, kinds: set[type]) -> None:
    found = _kinds(_load(tmp_path, family).model)
    assert found & {JoinedPart, JoinedMLP, FusedNorm} == kinds


def test_joined_models_do_not_grow(tmp_path: Path) -> None:
    plain = load_model(EngineConfig(model=str(make_model(tmp_path, "qwen2")), dense="plain")).model
    joined = _load(tmp_path, "qwen2").model
    sizes = [sum(p.numel() for p in model.parameters()) for model in (plain, joined)]
    assert sizes[0] == sizes[1]
    attention = joined.model.layers[1].self_attn
    own = plain.model.layers[1].self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        ours, before = getattr(attention, name), getattr(own, name)
        assert torch.equal(ours.weight.cpu(), before.weight)
        assert torch.equal(ours.bias.cpu(), before.bias)


def test_parts_are_right_whatever_they_are_given(tmp_path: Path) -> None:
    """In any order, some of them, of unlike inputs, twice: a product serves those of one input."""
    attention = _load(tmp_path, "llama").model.model.layers[0].self_attn
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    inputs = [_random(seed, 1, 3, 64).to(DEVICE) for seed in range(2)]
    order = torch.randint(6, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        for number in order:
            part, x = parts[number % 3], inputs[number // 3]
            torch.testing.assert_close(part(x), F.linear(x, part.weight))


class _Launches(TorchDispatchMode):
    """Counts operations that make something, not views; ``_Counted`` adds kernels of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not _is_view(result, (args, kwargs)):
            self.names.append(str(func))
        return result


def _is_view(result: Any, inputs: Any) -> bool:
    def memory(tree: Any) -> set[int]:
        leaves = torch.utils._pytree.tree_leaves(tree)
        tensors = (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    return memory(result) <= memory(inputs)


class _Counted(TritonKernels):
    """One launch each: what they do inside is not counted again."""

    launches: _Launches | None = None

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("rms_norm", "rotate", "gate"):
            return method

        def launch(*args: Any) -> Any:
            counting = _Counted.launches
            if counting is not None:
                counting.names.append(name)
            with torch._C._DisableTorchDispatch():
                return method(*args)

        return launch


@pytest.fixture
def counted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "TritonKernels", _Counted)
        yield
    _Counted.launches = None


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(("family", "most"), [("llama", 10), ("qwen3", 12), ("qwen2", 10)])
@torch.inference_mode()
def test_launches_of_a_layer(tmp_path: Path, family: str, most: int) -> None:
    """From one attention to the next; of these, five are products."""
    loaded = _load(tmp_path, family)
    rows = torch.arange(4, device=DEVICE)
    forward = Pass(loaded.model, rows + 3, rows, rows)
    call = forward.resume(None)
    for _ in range(2):
        assert isinstance(call, Call)
        output = torch.randn_like(call.queries[0].transpose(0, 1).contiguous())
        with _Launches() as launches:
            _Counted.launches = launches
            call = forward.resume(output)
            _Counted.launches = None
        assert len(launches.names) <= most, launches.names
    forward.close()


class _Plain:
    """What TritonKernels compute, by torch."""

    head_step = 2

    def rms_norm(self, x: torch.Tensor, factor: torch.Tensor, epsilon: float) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), factor, epsilon)

    def rotate(self, *rows: torch.Tensor) -> Any:
        return modeling_llama.apply_rotary_pos_emb(*rows)

    def gate(self, joined: torch.Tensor, activation: str) -> torch.Tensor:
        assert activation == "silu"
        gate, up = joined.chunk(2, dim=-1)
        return F.silu(gate) * up


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_two_tiers_of_a_joined_model_equal_its_own_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Values leave for workers as views of a joined product."""
    case = Case(tmp_path, family, device=DEVICE)
    plain = EngineConfig(model=str(case.path), device=DEVICE, dense="plain")
    case.loaded = load_model(plain)
    monkeypatch.setattr(joining, "TritonKernels", _Plain)  # the interpreter takes a minute
    with torch.inference_mode():
        join_model(case.loaded.model)
    assert JoinedPart in _kinds(case.loaded.model)
    with open_cluster(case.loaded, tmp_path, workers=2, tier1_pages=8) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()
