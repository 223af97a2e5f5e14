"""Pages that are read and attended elsewhere answer the same bits as where they were."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_steps import ISAS, KV, Cache, int32, make_layer, require

from glinthawk.core.errors import WireError
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.pages.page_table import SpanTable, cut_to_window
from glinthawk.tier2.pages.visible_pages import find_sight

LENGTHS = {0: 1300, 1: 15, 2: 512, 3: 77}


def _elsewhere(cache: Cache) -> NativeBackend:
    """Of the same shapes, with one page of its own."""
    page_tokens = cache.page_tokens
    return NativeBackend((cache.layer,), 1, page_tokens, cache.kv_dtype, 2, cache.isa)


def _read(cache: Cache, table: SpanTable) -> tuple[torch.Tensor, SpanTable]:
    """Pages in sight, each once, and the table of those who see them."""
    window = cache.layer.window
    sight = find_sight(table, window, cache.page_tokens)
    seen = cut_to_window(table, window, cache.page_tokens)
    units = cache.backend.read(0, sight.table)
    return units, dataclasses.replace(seen, pages=sight.places)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV)
@pytest.mark.parametrize("features", [{}, {"softcap": 20.0, "sinks": tuple(map(float, range(8)))}])
def test_the_same_bits(isa: str, kv_dtype: str, features: dict) -> None:
    torch.manual_seed(1)
    layer = make_layer(8, 2, 64, 48, **features)
    cache = Cache(layer, kv_dtype, require(isa), dtype=torch.bfloat16)
    cache.extend(LENGTHS)
    table = cache.extend({0: 3, 1: 1, 2: 1, 3: 20})
    queries = cache.random_queries(table.num_rows)
    expected, _ = cache.backend.attend(0, table, queries)
    units, packed = _read(cache, table)
    assert len(units) == len(table.pages)
    assert torch.equal(_elsewhere(cache).attend_packed(0, packed, units, queries), expected)


@settings(deadline=None, max_examples=60)
@given(
    window=st.sampled_from([1, 2, 31, 32, 33, 64, 500, 900, 2**31 - 1]),
    lengths=st.lists(st.integers(1, 40), min_size=4, max_size=4),
)
def test_pages_out_of_sight_are_left_out(window: int, lengths: list[int]) -> None:
    """Results differ in the last bits at most: chunks begin elsewhere."""
    cache = Cache(make_layer(window=window))
    cache.extend(LENGTHS)
    table = cache.extend(dict(enumerate(lengths)))
    queries = cache.random_queries(table.num_rows)
    expected, _ = cache.backend.attend(0, table, queries)
    units, packed = _read(cache, table)
    in_sight = [
        -(-end // 32) - max(0, end - length - window + 1) // 32
        for end, length in ((LENGTHS[s] + n, n) for s, n in enumerate(lengths))
    ]
    assert len(units) == sum(in_sight)
    output = _elsewhere(cache).attend_packed(0, packed, units, queries)
    torch.testing.assert_close(output, expected)


def test_a_page_that_is_shared_is_there_once() -> None:
    cache = Cache(make_layer())
    cache.extend({0: 70})
    cache.pages.share(0, 1, 64)
    table = cache.pages.look_up([0, 1], [69, 63], [1, 1])
    queries = cache.random_queries(2)
    units, packed = _read(cache, table)
    assert (len(units), len(packed.pages)) == (3, 5)
    expected, _ = cache.backend.attend(0, table, queries)
    assert torch.equal(_elsewhere(cache).attend_packed(0, packed, units, queries), expected)


def test_other_pages_under_the_same_table() -> None:
    """A plan is made for so many pages; with fewer, none may be read that is not there."""
    cache = Cache(make_layer())
    table = cache.extend({0: 70})
    units, packed = _read(cache, table)
    backend, queries = _elsewhere(cache), cache.random_queries(70)
    backend.attend_packed(0, packed, units, queries)
    with pytest.raises(WireError, match="page 2"):
        backend.attend_packed(0, packed, units[:2], queries)
    more = torch.cat([units, units])
    expected = backend.attend_packed(0, packed, units, queries)
    assert torch.equal(backend.attend_packed(0, packed, more, queries), expected)


def test_what_does_not_fit_is_refused() -> None:
    cache = Cache(make_layer(), num_pages=8)
    table = cache.extend({0: 70})
    units, packed = _read(cache, table)
    queries = cache.random_queries(70)
    for wrong in (units[:, :-1], units[0], units.float(), units[:0]):
        with pytest.raises(WireError):
            cache.backend.attend_packed(0, packed, wrong, queries)
    for wrong in (queries[:3], queries.double()):
        with pytest.raises(WireError):
            cache.backend.attend_packed(0, packed, units, wrong)
    for layer in (-1, 1, 2**40):
        with pytest.raises(WireError):
            cache.backend.read(layer, table)
        with pytest.raises(WireError):
            cache.backend.unit_bytes(layer)
        with pytest.raises(WireError):
            cache.backend.attend_packed(layer, packed, units, queries)
    for pages in (int32([8]), int32([-1]), torch.tensor([1])):
        with pytest.raises(WireError):
            cache.backend.read(0, dataclasses.replace(table, pages=pages))
    assert cache.backend.unit_bytes(0) == cache.backend.page_bytes
