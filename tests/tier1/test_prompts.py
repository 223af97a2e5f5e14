"""A whole prompt at once, on either path, is what the slow truth says."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier1.forward.prompt_attention import attend_prompt, attend_prompts

PLAIN = AttentionLayer(4, 2, 8, 8, 0.3)
LAYERS = {
    "plain": PLAIN,
    "one head each": replace(PLAIN, num_kv_heads=4),
    "one KV head": replace(PLAIN, num_kv_heads=1),
    "narrow values": replace(PLAIN, value_dim=5),
    "wide values": replace(PLAIN, value_dim=12, num_kv_heads=4),
    "window of 1": replace(PLAIN, window=1),
    "window of 12": replace(PLAIN, window=12),
    "window of 256": replace(PLAIN, window=256),
    "window of 257": replace(PLAIN, window=257),
    "window beyond the prompt": replace(PLAIN, window=5000),
    "softcap": replace(PLAIN, softcap=2.0),
    "sinks": replace(PLAIN, sinks=(0.0, 2.0, -3.0, 1.0)),
    "all together": AttentionLayer(
        6, 3, 8, 5, 0.5, window=100, softcap=3.0, sinks=(0.5,) * 5 + (4.0,)
    ),
}
#: The plain path goes by blocks of 256 queries.
LENGTHS = (1, 2, 255, 256, 257, 511, 512, 513, 520)


def _inputs(
    layer: AttentionLayer, length: int, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(length)
    shapes = [
        (length, layer.num_heads, layer.head_dim),
        (length, layer.num_kv_heads, layer.head_dim),
        (length, layer.num_kv_heads, layer.value_dim),
    ]
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", list(LAYERS))
def test_a_prompt_equals_the_slow_truth(kind: str, length: int) -> None:
    layer = LAYERS[kind]
    inputs = _inputs(layer, length)
    output = attend_prompt(*inputs, layer)
    expected, _ = attend_sequence(*inputs, layer)
    assert output.shape == (length, layer.num_heads, layer.value_dim)
    torch.testing.assert_close(output, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["plain", "narrow values", "all together"])
def test_half_precision_stays_near_the_truth(kind: str, dtype: torch.dtype) -> None:
    layer = LAYERS[kind]
    inputs = _inputs(layer, 300, dtype)
    output = attend_prompt(*inputs, layer)
    expected, _ = attend_sequence(*inputs, layer)
    assert output.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["plain", "window of 12", "all together"])
def test_a_prompt_may_be_rows_of_a_larger_tensor(kind: str) -> None:
    """The node cuts a prompt out of a step's rows, head-major as models have them."""
    layer = LAYERS[kind]
    rows = _inputs(layer, 90)
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in rows]
    output = attend_prompt(*(tensor[20:70] for tensor in strided), layer)
    expected, _ = attend_sequence(*(tensor[20:70] for tensor in rows), layer)
    torch.testing.assert_close(output, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_later_tokens_never_change_earlier_ones(kind: str) -> None:
    layer = LAYERS[kind]
    inputs = _inputs(layer, 300)
    whole = attend_prompt(*inputs, layer)[:100]
    part = attend_prompt(*(tensor[:100] for tensor in inputs), layer)
    torch.testing.assert_close(whole, part, atol=3e-6, rtol=1e-5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["plain", "one KV head", "wide values", "window of 12", "all together"]),
    st.lists(st.integers(1, 40), min_size=1, max_size=7),
)
@example("window of 12", [11, 13, 12])
def test_prompts_together_equal_each_alone(kind: str, lengths: list[int]) -> None:
    """Some are padded to a common length, some are longer than the window, all in any order."""
    layer = LAYERS[kind]
    q, k, v = _inputs(layer, sum(lengths))
    together = attend_prompts(q, k, v, lengths, layer).split(lengths)
    for output, *alone in zip(together, *(t.split(lengths) for t in (q, k, v)), strict=True):
        expected, _ = attend_sequence(*alone, layer)
        torch.testing.assert_close(output, expected, atol=3e-6, rtol=1e-5)


def test_a_prompt_of_no_numbers_spoils_no_other() -> None:
    q, k, v = _inputs(PLAIN, 31)
    expected = attend_prompts(q, k, v, [10, 11, 10], PLAIN)
    for tensor in (q, k, v):
        tensor[10:21] = float("nan")
    output = attend_prompts(q, k, v, [10, 11, 10], PLAIN)
    others = torch.cat([torch.arange(10), torch.arange(21, 31)])
    assert torch.equal(output[others], expected[others])
    assert output[10:21].isnan().all()
