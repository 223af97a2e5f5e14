"""Packed prompts are what the plain path says, and a kernel that does not say so is not used."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.forward import packed_attention
from glinthawk.tier1.forward.packed_attention import PackedPrompts, agrees, find_packed_kernels
from glinthawk.tier1.forward.prompt_attention import attend_prompts

PLAIN = AttentionLayer(4, 2, 16, 16, 0.3)
LAYERS = {
    "plain": PLAIN,
    "one head each": replace(PLAIN, num_kv_heads=4),
    "window of 12": replace(PLAIN, window=12),
    "softcap": replace(PLAIN, softcap=2.0),
    "sinks": replace(PLAIN, sinks=(0.0, 2.0, -3.0, 1.0)),
    "narrow values": replace(PLAIN, value_dim=8),
    "odd heads": replace(PLAIN, head_dim=12, value_dim=12),
}
#: Whose prompts, or the short ones of them, are packed.
PACKED = ("plain", "one head each", "window of 12")


class Kernel:
    """Stands in for one of torch's; notes how long the prompts were."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bounds: torch.Tensor,
        longest: int,
        scale: float,
    ) -> torch.Tensor:
        assert bounds.dtype == torch.int32
        lengths = bounds.diff().tolist()
        assert bounds[0] == 0 and longest == max(lengths) and sum(lengths) == len(q)
        self.calls.append(lengths)
        layer = AttentionLayer(q.shape[1], k.shape[1], q.shape[2], v.shape[2], scale)
        return _one_by_one(q, k, v, lengths, layer).to(q.dtype)


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int], layer: AttentionLayer
) -> torch.Tensor:
    parts = zip(*(tensor.split(list(lengths)) for tensor in (q, k, v)), strict=True)
    return torch.cat([attend_sequence(*part, layer)[0] for part in parts])


def _inputs(layer: AttentionLayer, num_rows: int, device: str = "cpu") -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(num_rows)
    shapes = [
        (num_rows, layer.num_heads, layer.head_dim),
        (num_rows, layer.num_kv_heads, layer.head_dim),
        (num_rows, layer.num_kv_heads, layer.value_dim),
    ]
    return [torch.randn(s, generator=random).to(device, torch.bfloat16) for s in shapes]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(LAYERS)), st.lists(st.integers(1, 30), min_size=1, max_size=7))
def test_packed_prompts_equal_each_alone(kind: str, lengths: list[int]) -> None:
    layer, kernel = LAYERS[kind], Kernel()
    q, k, v = _inputs(layer, sum(lengths))
    output = PackedPrompts(kernel)(q, k, v, lengths, layer)
    expected = _one_by_one(q, k, v, lengths, layer)
    torch.testing.assert_close(output.float(), expected.float(), atol=0.05, rtol=0.05)
    packed = [n for n in lengths if kind in PACKED and n <= (layer.window or n)]
    assert kernel.calls == ([packed] if packed else [])


def test_single_precision_is_not_packed() -> None:
    kernel = Kernel()
    inputs = [tensor.float() for tensor in _inputs(PLAIN, 5)]
    output = PackedPrompts(kernel)(*inputs, [2, 3], PLAIN)
    assert torch.equal(output, attend_prompts(*inputs, [2, 3], PLAIN))
    assert not kernel.calls


def _refuse(*_arguments: Any) -> torch.Tensor:
    raise RuntimeError("not compiled with flash attention")


def _acausal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> torch.Tensor:
    return q * 0 + v.mean(0).repeat_interleave(q.shape[1] // v.shape[1], 0)


@pytest.mark.parametrize(
    ("kernel", "is_used"), [(Kernel(), True), (_refuse, False), (_acausal, False)]
)
def test_a_kernel_is_asked_what_it_computes(kernel: Any, is_used: bool) -> None:
    attend, cpu = PackedPrompts(kernel), torch.device("cpu")
    assert agrees(attend, list(LAYERS.values()), torch.bfloat16, cpu) == is_used


def test_a_cpu_has_no_such_kernel() -> None:
    assert find_packed_kernels(torch.device("cpu"), torch.bfloat16) == {}


@pytest.mark.parametrize("takes_groups", [True, False])
def test_ways_to_flash_attention(monkeypatch: pytest.MonkeyPatch, takes_groups: bool) -> None:
    """What a torch whose ``varlen_attn`` knows no groups of queries is left with; and that each way
    gives the operator of this torch what its schema takes."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(packed_attention, "_takes_groups", lambda: takes_groups)
    cuda = torch.device("cuda")
    ways = find_packed_kernels(cuda, torch.bfloat16)
    assert len(ways) == 2 + takes_groups
    assert find_packed_kernels(cuda, torch.float32) == {}
    q, k, v = (tensor.to("meta") for tensor in _inputs(PLAIN, 5))
    bounds = torch.empty(3, dtype=torch.int32, device="meta")
    for attend in ways.values():
        assert attend(q, k, v, bounds, 3, 0.3).shape == q.shape


def test_ways_on_gpus_before_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    cuda = torch.device("cuda")
    assert find_packed_kernels(cuda, torch.bfloat16) == {}
    (attend,) = find_packed_kernels(cuda, torch.float16).values()
    q, k, v = (tensor.to("meta", torch.float16) for tensor in _inputs(PLAIN, 5))
    bounds = torch.empty(3, dtype=torch.int32, device="meta")
    assert attend(q, k, v, bounds, 3, 0.3).shape == q.shape


@pytest.mark.gpu
@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("lengths", [[1], [5, 1, 30, 200, 12, 13], [64, 64], [700]])
def test_packed_prompts_on_a_gpu(kind: str, lengths: list[int]) -> None:
    layer, device = LAYERS[kind], torch.device("cuda")
    ways = find_packed_kernels(device, torch.bfloat16)
    working = [
        name
        for name, kernel in ways.items()
        if agrees(PackedPrompts(kernel), [layer], torch.bfloat16, device)
    ]
    assert working, "prompts go one by one"
    q, k, v = _inputs(layer, sum(lengths), "cuda")
    expected = _one_by_one(q.cpu(), k.cpu(), v.cpu(), lengths, layer)
    for name in working:
        output = PackedPrompts(ways[name])(q, k, v, lengths, layer)
        torch.testing.assert_close(output.float().cpu(), expected.float(), atol=0.05, rtol=0.05)
