"""Whole prompts by the native kernels: the same as the plain attention, step after step."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_cases import normal
from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.native_prompts import PromptKernel


@st.composite
def _layers(draw: st.DrawFn) -> AttentionLayer:
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    heads = kv_heads * group
    return AttentionLayer(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 40, 64])),
        value_dim=draw(st.sampled_from([16, 64])),
        scaling=0.2,
        window=draw(st.none() | st.integers(1, 50)),
        softcap=draw(st.none() | st.sampled_from([5.0, 50.0])),
        sinks=draw(st.none() | st.just(tuple(0.5 * head - 1 for head in range(heads)))),
    )


@settings(deadline=None, max_examples=40)
@given(
    layers=st.lists(_layers(), min_size=1, max_size=3),
    steps=st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_it_attends_as_the_reference_does(
    layers: list[AttentionLayer], steps: list[list[int]]
) -> None:
    attend = PromptKernel([*layers, layers[0]], "bfloat16", threads=2)
    for number, lengths in enumerate(steps):
        for layer in [*layers, layers[0]]:
            rows = sum(lengths)
            shapes = (
                (layer.num_heads, layer.head_dim),
                (layer.num_kv_heads, layer.head_dim),
                (layer.num_kv_heads, layer.value_dim),
            )
            q, k, v = (
                normal(7 * number + i, rows, *shape, dtype=torch.bfloat16)
                for i, shape in enumerate(shapes)
            )
            blocks = zip(*(tensor.float().split(lengths) for tensor in (q, k, v)), strict=True)
            truth = torch.cat([attend_sequence(*block, layer)[0] for block in blocks])
            ours = attend(q, k, v, lengths, layer)
            assert ours.dtype == torch.bfloat16
            assert (ours.float() - truth).norm() < 0.01 * truth.norm()
