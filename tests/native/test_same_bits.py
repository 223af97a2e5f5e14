"""A sequence's output depends on nothing but the sequence: not one bit."""

import itertools

import pytest
import torch
from kernel_steps import ISAS, KV, Cache, int32, make_layer, require

from glinthawk.core.openmp import find_team
from glinthawk.tier2.pages.page_table import SpanTable


def make_table(spans: list[tuple[int, int, list[int]]]) -> SpanTable:
    """Of (start, length, pages)."""
    offsets = [0]
    for _, _, pages in spans:
        offsets.append(offsets[-1] + len(pages))
    return SpanTable(
        int32([start for start, _, _ in spans]),
        int32([length for _, length, _ in spans]),
        int32([page for _, _, pages in spans for page in pages]),
        int32(offsets),
        sum(length for _, length, _ in spans),
    )


def rows_of(table: SpanTable, span: int) -> slice:
    first = int(table.lengths[:span].sum())
    return slice(first, first + int(table.lengths[span]))


def alone(table: SpanTable, span: int) -> SpanTable:
    first, last = int(table.offsets[span]), int(table.offsets[span + 1])
    pages = table.pages[first:last].tolist()
    return make_table([(int(table.starts[span]), int(table.lengths[span]), pages)])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV)
@pytest.mark.parametrize("group", [1, 4, 7, 8, 16])
def test_neighbours_and_threads(isa: str, kv_dtype: str, group: int) -> None:
    torch.manual_seed(group)
    layer = make_layer(2 * group, 2, 64, 48, window=900, softcap=20.0)
    cache = Cache(layer, kv_dtype, require(isa), threads=1, dtype=torch.bfloat16)
    cache.extend({0: 1300, 1: 15, 2: 512, 3: 77})
    table = cache.extend({0: 3, 1: 1, 2: 1, 3: 20})
    queries = cache.random_queries(table.num_rows)
    output, lse = cache.backend.attend(0, table, queries)
    for span in range(4):
        rows = rows_of(table, span)
        single, single_lse = cache.backend.attend(0, alone(table, span), queries[rows])
        assert torch.equal(single, output[rows])
        assert torch.equal(single_lse, lse[rows])


@pytest.mark.parametrize("kv_dtype", KV)
def test_thread_counts(kv_dtype: str) -> None:
    results = []
    for threads, borrowed in itertools.product((1, 2, 3, 5), (False, True)):
        torch.manual_seed(0)
        layer = make_layer(8, 2, 128, 128)
        cache = Cache(layer, kv_dtype, threads=threads, on_torch_threads=borrowed)
        cache.extend({i: 1 + i * 173 % 900 for i in range(7)})
        table = cache.extend({i: 1 for i in range(7)})
        results.append(cache.backend.attend(0, table, cache.random_queries(7)))
    for output, lse in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(lse, results[0][1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV)
def test_tokens_of_a_span_are_as_if_they_came_one_by_one(isa: str, kv_dtype: str) -> None:
    torch.manual_seed(1)
    cache = Cache(make_layer(6, 2, 32, 32, window=300), kv_dtype, require(isa))
    cache.extend({0: 500})
    table = cache.extend({0: 40})
    queries = cache.random_queries(40)
    output, lse = cache.backend.attend(0, table, queries)
    pages = table.pages.tolist()
    for i in range(40):
        single = make_table([(500 + i, 1, pages)])
        one, one_lse = cache.backend.attend(0, single, queries[i : i + 1])
        assert torch.equal(one[0], output[i])
        assert torch.equal(one_lse[0], lse[i])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", KV)
@pytest.mark.parametrize("prefix_pages", [3, 16, 40])
def test_shared_pages(isa: str, kv_dtype: str, prefix_pages: int) -> None:
    """Sequences over shared pages, and over private copies of them, give the same."""
    torch.manual_seed(prefix_pages)
    count, tail_pages = 5, 2
    cache = Cache(make_layer(8, 2, 64, 64), kv_dtype, require(isa), num_pages=260)
    prefix = list(range(prefix_pages))
    rows = cache.random_rows(32 * prefix_pages)
    cache.backend.append(0, make_table([(0, 32 * prefix_pages, prefix)]), *rows)
    shared, private, fresh = [], [], prefix_pages
    for i in range(count):
        tail = list(range(fresh, fresh + tail_pages))
        copy = list(range(fresh + tail_pages, fresh + tail_pages + prefix_pages))
        fresh = copy[-1] + 1
        for source, target in zip(prefix, copy, strict=True):
            cache.backend.copy_page(source, target)
        length = 1 + 11 * i
        span = (32 * prefix_pages, length, prefix + tail)
        cache.backend.append(0, make_table([span]), *cache.random_rows(length))
        shared.append((span[0] + length - 1, 1, prefix + tail))
        private.append((span[0] + length - 1, 1, copy + tail))
    queries = cache.random_queries(count)
    together = cache.backend.attend(0, make_table(shared), queries)
    apart = cache.backend.attend(0, make_table(private), queries)
    assert torch.isfinite(together[0].float()).all()
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


def test_threads_can_be_borrowed_where_torch_has_an_openmp_runtime() -> None:
    if torch.backends.openmp.is_available():
        assert all(find_team())
