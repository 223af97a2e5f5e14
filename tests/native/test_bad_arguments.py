"""What does not fit is refused before any memory is touched."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_steps import Cache, make_layer

from glinthawk.core.errors import WireError, WorkerRefused
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.pages.page_table import SpanTable

CACHE = Cache(make_layer(), num_pages=8)
EXTREMES = [-(2**31), -1, 0, 1, 7, 8, 9, 31, 32, 33, 255, 256, 257, 2**31 - 1]
numbers = st.integers(-(2**31), 2**31 - 1) | st.sampled_from(EXTREMES) | st.integers(0, 8)
columns = st.lists(numbers, max_size=5).map(lambda x: torch.tensor(x, dtype=torch.int32))


@settings(max_examples=500, deadline=None)
@given(columns, columns, columns, columns, st.integers(0, 40), st.none() | columns)
def test_random_tables_raise_or_work(starts, lengths, pages, offsets, num_rows, oldest) -> None:
    table = SpanTable(starts, lengths, pages, offsets, num_rows, oldest)
    try:
        keys, values = CACHE.random_rows(num_rows)
        CACHE.backend.append(0, table, keys, values)
        CACHE.backend.attend(0, table, CACHE.random_queries(num_rows))
    except WireError:
        pass


@settings(max_examples=300, deadline=None)
@given(
    column=st.sampled_from(["starts", "lengths", "pages", "offsets", "oldest"]),
    index=st.integers(0, 2),
    number=numbers,
)
def test_one_wrong_number(column: str, index: int, number: int) -> None:
    table = SpanTable(
        torch.tensor([40, 0, 63], dtype=torch.int32),
        torch.tensor([1, 5, 1], dtype=torch.int32),
        torch.tensor([0, 1, 2, 3, 4], dtype=torch.int32),
        torch.tensor([0, 2, 3, 5], dtype=torch.int32),
        7,
        torch.tensor([8, 0, 63], dtype=torch.int32),
    )
    getattr(table, column)[index] = number
    keys, values = CACHE.random_rows(7)
    with contextlib.suppress(WireError):
        CACHE.backend.append_attend(0, table, CACHE.random_queries(7), keys, values)


def test_rows_of_wrong_shape_or_dtype() -> None:
    table = CACHE.pages.table([0], [0], [3])
    queries, (keys, values) = CACHE.random_queries(3), CACHE.random_rows(3)
    backend = CACHE.backend
    for wrong in (queries[:2], queries[:, :3], queries[..., :16], queries.double(), queries.int()):
        with pytest.raises(WireError):
            backend.attend(0, table, wrong)
    for wrong in (keys[:2], keys[:, :1], keys[..., :8], keys.double(), keys.half()):
        with pytest.raises(WireError):
            backend.append(0, table, wrong, values)
        with pytest.raises(WireError):
            backend.append(0, table, keys, wrong)
    for layer in (-1, 1, 2**40):
        with pytest.raises(WireError):
            backend.append(layer, table, keys, values)
        with pytest.raises(WireError):
            backend.attend(layer, table, queries)
    with pytest.raises(WireError):
        backend.attend(0, dataclasses.replace(table, starts=table.starts.long()), queries)
    with pytest.raises(WireError):
        backend.attend(0, dataclasses.replace(table, num_rows=-1), queries)
    for pair in ((-1, 0), (0, 8), (8, 0), (2**40, 0)):
        with pytest.raises(WireError):
            backend.copy_page(*pair)


def test_rows_with_gaps_are_understood() -> None:
    table = CACHE.pages.table([7], [0], [3])
    queries, (keys, values) = CACHE.random_queries(3), CACHE.random_rows(3)
    plain = CACHE.backend.append_attend(0, table, queries, keys, values)
    gapped = [torch.cat([x, x], dim=1)[:, : x.shape[1]] for x in (queries, keys, values)]
    assert not gapped[0].is_contiguous()
    assert torch.equal(CACHE.backend.append_attend(0, table, *gapped)[0], plain[0])


@pytest.mark.parametrize(
    "change",
    [
        {"num_pages": 0},
        {"num_pages": -5},
        {"page_tokens": 8},
        {"page_tokens": 0},
        {"page_tokens": 40},
        {"kv_dtype": "float64"},
        {"isa": "mmx"},
        {"num_pages": 2**31 - 1, "page_tokens": 2**20},
        {"layers": (make_layer(head_dim=12),)},
        {"layers": (make_layer(head_dim=264),)},
        {"layers": (make_layer(value_dim=4),)},
        {"layers": (make_layer(num_heads=130),)},
        {"layers": (make_layer(num_heads=3),)},
        {"layers": (make_layer(window=0),)},
        {"layers": (make_layer(softcap=0.0),)},
        {"layers": (make_layer(sinks=(1.0,)),)},
        {"layers": ()},
    ],
)
def test_caches_that_cannot_be_made(change: dict) -> None:
    good = {
        "layers": (make_layer(),),
        "num_pages": 4,
        "page_tokens": 32,
        "kv_dtype": "float32",
    }
    NativeBackend(**good)
    with pytest.raises((WorkerRefused, MemoryError)):
        NativeBackend(**(good | change))
