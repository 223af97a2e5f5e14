"""The native kernels against plain attention: shapes, dtypes, features, instruction sets."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_steps import ISAS, Cache, make_layer, relative_error, require

from glinthawk.tier2.backends.native import KV_DTYPES, NativeBackend, page_bytes, supported_isas
from glinthawk.tier2.pages.page_table import PageTable

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def layers(draw: st.DrawFn):
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 64]))
    return make_layer(
        heads,
        kv_heads,
        8 * draw(st.integers(1, 32)),
        8 * draw(st.integers(1, 32)),
        window=draw(st.none() | st.integers(1, 700)),
        softcap=draw(st.none() | st.floats(1, 50)),
        sinks=draw(st.none() | st.just(tuple(torch.linspace(-3, 3, heads).tolist()))),
    )


spans = st.lists(
    st.tuples(st.integers(0, 700) | st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=6
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    layer=layers(),
    spans=spans,
    kv_dtype=st.sampled_from(KV_DTYPES),
    dtype=st.sampled_from(DTYPES),
    page_tokens=st.sampled_from([16, 32, 48, 64, 128]),
    isa=st.sampled_from(supported_isas()),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_plain_attention(
    layer, spans, kv_dtype, dtype, page_tokens, isa, threads, seed
):
    torch.manual_seed(seed)
    num_pages = sum(-(-(start + length) // page_tokens) for start, length in spans)
    cache = Cache(layer, kv_dtype, isa, threads, num_pages, page_tokens, dtype)
    before = {i: start for i, (start, _) in enumerate(spans) if start}
    if before:
        cache.extend(before)
    cache.check({i: length for i, (_, length) in enumerate(spans)})


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_every_instruction_set(isa: str, kv_dtype: str, head_dim: int) -> None:
    torch.manual_seed(0)
    layer = make_layer(8, 2, head_dim, head_dim)
    cache = Cache(layer, kv_dtype, require(isa), dtype=torch.bfloat16)
    cache.extend({0: 600, 1: 31, 2: 512})
    for lengths in ({0: 1, 1: 1, 2: 1, 3: 1}, {1: 2, 3: 17}, {0: 3}):
        cache.check(lengths)


@pytest.mark.parametrize("isa", ISAS)
def test_int8_stays_within_one_percent(isa: str) -> None:
    torch.manual_seed(1)
    cache = Cache(make_layer(8, 1, 128, 128), "int8", require(isa), dtype=torch.float32)
    cache.extend({0: 2000, 1: 2000})
    table = cache.extend({0: 1, 1: 1})
    queries = cache.random_queries(2)
    output, _ = cache.backend.attend(0, table, queries)
    expected = [cache.expected(i, queries[i : i + 1])[0] for i in range(2)]
    assert relative_error(output, torch.cat(expected)) < 0.01


def test_large_scores_and_late_maxima() -> None:
    """Scores that keep growing move the softmax's shift many times."""
    torch.manual_seed(2)
    cache = Cache(make_layer(4, 1, 16, 16), "float32", threads=1)
    table = cache.pages.table([0], [0], [1500])
    keys, values = cache.random_rows(1500)
    keys *= torch.linspace(0.01, 60, 1500).view(-1, 1, 1)
    cache.backend.append(0, table, keys, values)
    cache.keys[0], cache.values[0] = keys, values
    cache.check({0: 2})


def test_one_very_long_sequence_among_short_ones() -> None:
    torch.manual_seed(3)
    layer = make_layer(2, 1, 16, 16)
    cache = Cache(layer, "float32", num_pages=3300, dtype=torch.float32)
    cache.extend({0: 100_000} | {i: 3 * i for i in range(1, 40)})
    cache.check({i: 1 for i in range(40)})


def test_rewriting_positions_is_harmless() -> None:
    torch.manual_seed(4)
    for kv_dtype in KV_DTYPES:
        cache = Cache(make_layer(), kv_dtype)
        cache.extend({0: 45, 1: 7})
        table = cache.pages.table([0], [20], [9])  # positions 20 to 28 again, with what they were
        cache.backend.append(0, table, cache.keys[0][20:29], cache.values[0][20:29])
        cache.check({0: 1, 1: 1})
        keys, values = cache.random_rows(3)
        cache.backend.append(0, cache.pages.table([1], [2], [3]), keys, values)
        cache.keys[1][2:5], cache.values[1][2:5] = keys, values
        cache.check({0: 1, 1: 1})


def test_append_attend_is_append_then_attend() -> None:
    torch.manual_seed(5)
    one, two = (Cache(make_layer(), "bfloat16") for _ in range(2))
    table = one.pages.table([0, 1], [0, 0], [40, 3])
    queries, (keys, values) = one.random_queries(43), one.random_rows(43)
    one.backend.append(0, table, keys, values)
    apart = one.backend.attend(0, table, queries)
    together = two.backend.append_attend(0, table, queries, keys, values)
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))


def test_layers_have_pages_of_their_own() -> None:
    torch.manual_seed(6)
    layers = (make_layer(4, 2, 32, 32), make_layer(6, 1, 64, 48, window=5))
    backend = NativeBackend(layers, 4, 32, "float32")
    truth = [Cache(layer) for layer in layers]
    table = PageTable(4, 32).table([0], [0], [50])
    for index, cache in enumerate(truth):
        keys, values = cache.random_rows(50)
        backend.append(index, table, keys, values)
        cache.keys[0], cache.values[0] = keys, values
    for index, cache in enumerate(truth):
        queries = cache.random_queries(50)
        output, _ = backend.attend(index, table, queries)
        assert relative_error(output, cache.expected(0, queries)[0]) < 2e-5


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_page_bytes_is_what_the_engine_takes(kv_dtype: str) -> None:
    layers = (make_layer(4, 2, 40, 24), make_layer(8, 8, 128, 128))
    for page_tokens in (16, 32, 64):
        backend = NativeBackend(layers, 1, page_tokens, kv_dtype)
        assert backend.page_bytes == page_bytes(layers, page_tokens, kv_dtype)
