"""The slow truth itself, against double precision written out by hand and against torch."""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from attention_cases import LAYERS, normal
from glinthawk.attention.reference import attend_sequence, merge_partials
from glinthawk.core.spec import AttentionLayer

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _by_hand(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: AttentionLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """One query head at a time, one key at a time, in Python's own doubles."""
    q, k, v = (tensor.double().tolist() for tensor in (queries, keys, values))
    group = layer.num_heads // layer.num_kv_heads
    output, lse = [], []
    for row, query in enumerate(q):
        position = len(k) - len(q) + row
        oldest = 0 if layer.window is None else max(0, position - layer.window + 1)
        for head, vector in enumerate(query):
            seen = range(oldest, position + 1)
            scores = [_score(vector, k[key][head // group], layer) for key in seen]
            total = sum(math.exp(score) for score in scores)
            total += math.exp(layer.sinks[head]) if layer.sinks is not None else 0
            columns = zip(*(v[key][head // group] for key in seen), strict=True)
            weights = [math.exp(score) / total for score in scores]
            output.append([_dot(weights, column) for column in columns])
            lse.append(math.log(total))
    shape = (len(q), layer.num_heads)
    return torch.tensor(output).view(*shape, -1), torch.tensor(lse).view(shape)


def _dot(left: Iterable[float], right: Iterable[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def _score(query: list[float], key: list[float], layer: AttentionLayer) -> float:
    score = layer.scaling * _dot(query, key)
    return score if layer.softcap is None else layer.softcap * math.tanh(score / layer.softcap)


def _inputs(
    layer: AttentionLayer, num_queries: int, num_keys: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        normal(1, num_queries, layer.num_heads, layer.head_dim),
        normal(2, num_keys, layer.num_kv_heads, layer.head_dim),
        normal(3, num_keys, layer.num_kv_heads, layer.value_dim),
    )


@QUIET
@given(LAYERS, st.integers(1, 5), st.integers(0, 15))
def test_it_is_softmax_written_out_by_hand(
    layer: AttentionLayer, num_queries: int, num_past: int
) -> None:
    inputs = _inputs(layer, num_queries, num_queries + num_past)
    output, lse = attend_sequence(*inputs, layer)
    expected, expected_lse = _by_hand(*inputs, layer)
    torch.testing.assert_close(output, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(lse, expected_lse, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (5, 1)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(40, 40), (1, 33), (7, 20)])
def test_it_is_torchs_attention(heads: int, kv_heads: int, num_queries: int, num_keys: int) -> None:
    layer = AttentionLayer(heads, kv_heads, 16, 16, 0.3)
    inputs = _inputs(layer, num_queries, num_keys)
    q, k, v = (tensor.transpose(0, 1).double() for tensor in inputs)
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    expected = scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True)
    output, _ = attend_sequence(*inputs, layer)
    torch.testing.assert_close(output, expected.transpose(0, 1).float(), atol=2e-6, rtol=1e-5)


@QUIET
@given(LAYERS, st.integers(1, 25), st.lists(st.integers(0, 25), max_size=3), st.data())
def test_parts_of_the_keys_merge_into_the_whole(
    layer: AttentionLayer, num_keys: int, cuts: list[int], data: st.DataObject
) -> None:
    """Wherever keys are cut, also where a part is out of the window or empty; sinks count once."""
    query, keys, values = _inputs(layer, 1, num_keys)
    whole = attend_sequence(query, keys, values, layer)
    oldest = 0 if layer.window is None else max(0, num_keys - layer.window)
    part_layer = replace(layer, window=None, sinks=None)
    edges = [0, *sorted(min(cut, num_keys) for cut in cuts), num_keys]
    ranges = [(max(begin, oldest), end) for begin, end in pairwise(edges)]
    parts = [
        attend_sequence(query, keys[begin:end], values[begin:end], part_layer)
        if begin < end
        else (torch.zeros_like(whole[0]), torch.full_like(whole[1], -math.inf))
        for begin, end in data.draw(st.permutations(ranges))
    ]
    sinks = None if layer.sinks is None else torch.tensor(layer.sinks)
    outputs, lses = (torch.stack(column) for column in zip(*parts, strict=True))
    merged, lse = merge_partials(outputs, lses, sinks)
    torch.testing.assert_close(lse, whole[1], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(merged, whole[0], atol=2e-6, rtol=1e-5)


@QUIET
@given(LAYERS, st.integers(2, 12))
def test_many_queries_are_so_many_single_ones(layer: AttentionLayer, length: int) -> None:
    queries, keys, values = _inputs(layer, length, length)
    together, lse = attend_sequence(queries, keys, values, layer)
    for row in range(length):
        part = slice(0, row + 1)
        alone, alone_lse = attend_sequence(queries[row : row + 1], keys[part], values[part], layer)
        torch.testing.assert_close(together[row], alone[0], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(lse[row], alone_lse[0], atol=2e-6, rtol=1e-5)


def test_a_sink_takes_weight_and_gives_no_value() -> None:
    layer = AttentionLayer(1, 1, 1, 1, 1.0, sinks=(math.log(3.0),))
    zero, ones = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    output, lse = attend_sequence(zero, zero, ones, layer)
    assert output.item() == pytest.approx(1 / 4)
    assert lse.item() == pytest.approx(math.log(4.0))


def test_scores_beyond_the_range_of_exp_do_no_harm() -> None:
    layer = AttentionLayer(1, 1, 1, 1, 1.0)
    keys = torch.tensor([1000.0, -1000.0, 999.0]).view(3, 1, 1)
    values = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    output, lse = attend_sequence(torch.ones(1, 1, 1), keys, values, layer)
    share = 1 / (1 + math.exp(-1))
    assert output.item() == pytest.approx(share + 3 * (1 - share), rel=1e-4)
    assert lse.item() == pytest.approx(1000 - math.log(share))
