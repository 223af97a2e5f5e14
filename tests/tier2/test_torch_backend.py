"""Keys and values in pages answer as keys and values in one piece."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attention_cases import DTYPES, LAYERS, Twin, normal
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.torch import TorchBackend
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_table import PageTable, SpanTable

PLAIN = AttentionLayer(2, 1, 4, 4, 0.5)


class Ragged:
    """A backend with small pages and its twin, taking the same random steps."""

    def __init__(self, layer: AttentionLayer, kv_dtype: torch.dtype, page_tokens: int) -> None:
        self.layer, self.twin = layer, Twin(layer, kv_dtype)
        self.pages = PageTable(64, page_tokens)
        self.backend = TorchBackend((PLAIN, layer), 64, page_tokens, kv_dtype)
        self.seed = 0

    def random(self, *shape: int) -> torch.Tensor:
        self.seed += 1
        return normal(self.seed, *shape)

    def step(self, spans: dict[int, tuple[int, int]], dtype: torch.dtype) -> None:
        """Append and attend; every span is (start, length)."""
        sequences = list(spans)
        starts, lengths = (list(column) for column in zip(*spans.values(), strict=True))
        table = self.pages.table(sequences, starts, lengths)
        layer, rows = self.layer, table.num_rows
        queries = self.random(rows, layer.num_heads, layer.head_dim).to(dtype)
        keys = self.random(rows, layer.num_kv_heads, layer.head_dim).to(dtype)
        values = self.random(rows, layer.num_kv_heads, layer.value_dim).to(dtype)
        self.backend.append(1, table, keys, values)
        for sequence, start, k, v in zip(
            sequences, starts, keys.split(lengths), values.split(lengths), strict=True
        ):
            self.twin.write(sequence, start, k, v)
        self.compare(sequences, table, queries)

    def compare(self, sequences: list[int], table: SpanTable, queries: torch.Tensor) -> None:
        output, lse = self.backend.attend(1, table, queries)
        expected, expected_lse = self.twin.attend_all(sequences, table, queries)
        assert output.dtype == queries.dtype
        assert lse.dtype == torch.float32
        torch.testing.assert_close(output, expected.to(queries.dtype))
        torch.testing.assert_close(lse, expected_lse)

    def forget(self, sequence: int) -> None:
        self.pages.release([sequence])
        self.twin.keys.pop(sequence, None)
        self.twin.values.pop(sequence, None)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    layer=LAYERS,
    kv_dtype=st.sampled_from(list(DTYPES.values())),
    wire_dtype=st.sampled_from(list(DTYPES.values())),
    page_tokens=st.integers(1, 8),
    data=st.data(),
)
def test_ragged_steps_over_scattered_pages_equal_plain_tensors(
    layer: AttentionLayer,
    kv_dtype: torch.dtype,
    wire_dtype: torch.dtype,
    page_tokens: int,
    data: st.DataObject,
) -> None:
    """Several tokens a span, positions written again, pages that change hands in any order."""
    ragged = Ragged(layer, kv_dtype, page_tokens)
    for _ in range(data.draw(st.integers(1, 5))):
        for sequence in data.draw(st.lists(st.integers(0, 3), max_size=1)):
            ragged.forget(sequence)
        members = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        ragged.step({s: _span(ragged, s, data) for s in members}, wire_dtype)


def _span(ragged: Ragged, sequence: int, data: st.DataObject) -> tuple[int, int]:
    start = data.draw(st.integers(0, ragged.twin.length(sequence)))
    return start, data.draw(st.integers(1, 9))


def test_a_position_written_again_is_replaced() -> None:
    backend, pages = TorchBackend((PLAIN,), 2, 4, torch.float32), PageTable(2, 4)
    key = torch.ones(1, 1, 4)
    for value in (5.0, 7.0):
        table = pages.table([1], [0], [1])
        backend.append(0, table, key, torch.full((1, 1, 4), value))
        output, _ = backend.attend(0, table, torch.ones(1, 2, 4))
        assert output.unique().tolist() == [value]


def test_layers_do_not_share_memory() -> None:
    backend, pages = TorchBackend((PLAIN, PLAIN), 1, 4, torch.float32), PageTable(1, 4)
    table, key = pages.table([1], [0], [1]), torch.ones(1, 1, 4)
    for layer in (0, 1):
        backend.append(layer, table, key, torch.full((1, 1, 4), float(layer + 1)))
    answers = [backend.attend(layer, table, torch.ones(1, 2, 4))[0] for layer in (0, 1)]
    assert [answer.unique().tolist() for answer in answers] == [[1.0], [2.0]]


@pytest.mark.parametrize("kv_dtype", list(DTYPES))
def test_a_cache_appends_before_it_attends(kv_dtype: str) -> None:
    layer = AttentionLayer(4, 2, 8, 6, 0.4, window=40)
    cache, twin = KVCache((layer,), 1 << 20, kv_dtype), Twin(layer, DTYPES[kv_dtype])
    prompt_k, prompt_v = normal(1, 50, 2, 8), normal(2, 50, 2, 6)
    cache.backend.append(0, cache.begin([], ([9], [0], [50]))[0], prompt_k, prompt_v)
    twin.write(9, 0, prompt_k, prompt_v)
    for position in range(50, 70):
        q, k, v = normal(3, 1, 4, 8), normal(position, 1, 2, 8), normal(position + 99, 1, 2, 6)
        output = cache.backend.append_attend(
            0, cache.begin([], ([9], [position], [1]))[0], q, k, v
        )[0]
        twin.write(9, position, k, v)
        torch.testing.assert_close(output, twin.attend(9, q, position)[0])


def test_an_answer_does_not_depend_on_what_runs_beside_it() -> None:
    layer = AttentionLayer(4, 2, 16, 16, 0.25)
    rows = {s: (normal(s, 1, 4, 16), normal(s, 1, 2, 16), normal(-s, 1, 2, 16)) for s in (1, 2, 3)}

    def answer(members: list[int]) -> torch.Tensor:
        cache = KVCache((layer,), 1 << 20, "float32")
        (table,) = cache.begin([], (members, [0] * len(members), [1] * len(members)))
        q, k, v = (torch.cat(parts) for parts in zip(*(rows[s] for s in members), strict=True))
        return cache.backend.append_attend(0, table, q, k, v)[0][members.index(2)]

    assert torch.equal(answer([2]), answer([1, 2, 3]))
    assert torch.equal(answer([2]), answer([3, 2, 1]))


def test_a_cache_holds_as_many_pages_as_fit() -> None:
    layer = AttentionLayer(8, 2, 16, 8, 1.0)
    page_bytes = PAGE_TOKENS * 2 * 2 * (16 + 8) * 3
    layers = (layer,) * 3
    assert KVCache(layers, 7 * page_bytes, "bfloat16", backend="torch").pages.num_pages == 7
    assert KVCache(layers, 8 * page_bytes - 1, "bfloat16", backend="torch").pages.num_pages == 7
    assert KVCache(layers, 8 * page_bytes, "float32", backend="torch").pages.num_pages == 4
    with pytest.raises(WorkerRefused, match="not one page"):
        KVCache(layers, page_bytes - 1, "bfloat16", backend="torch")


def test_the_peak_is_remembered_after_release() -> None:
    cache = KVCache((replace(PLAIN),), 1 << 16, "float32")
    cache.begin([], ([1, 2], [0, 0], [PAGE_TOKENS, 1]))
    cache.release([1, 2])
    cache.begin([], ([3], [0], [1]))
    assert cache.peak_bytes == 2 * cache.page_bytes
