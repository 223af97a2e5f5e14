"""The Triton kernels equal plain attention: on the GPU if there is one, else in the interpreter."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attention_cases import DTYPES, LAYERS, Twin, normal
from glinthawk.core.errors import WireError, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.tier2.backends.triton import TritonBackend, is_interpreted
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_table import PageTable, SpanTable
from glinthawk.wire.messages import Stored
from worker_talk import Talk

DEVICE = "cpu" if is_interpreted() else "cuda"
CHUNK = 16
PAGES = 150
PLAIN = AttentionLayer(2, 1, 4, 4, 0.5)

#: Of norms, against float32 attention over keys and values as they are kept. The interpreter
#: multiplies in float32, a GPU in the type of the queries.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2, "int8": 2e-2}


class Ragged:
    """A backend whose memory is full of NaN, and its twin, taking the same steps."""

    def __init__(self, layer: AttentionLayer, kv_dtype: str, page_tokens: int) -> None:
        self.layer, self.kv_dtype = layer, kv_dtype
        self.twin = Twin(layer, DTYPES.get(kv_dtype, torch.float32))
        self.pages = PageTable(PAGES, page_tokens)
        self.backend = TritonBackend(
            (PLAIN, layer), PAGES, page_tokens, kv_dtype, DEVICE, chunk_tokens=CHUNK
        )
        self.seed = 0
        for held in self.backend._layers:
            for pool in held.pools:
                pool.fill_(torch.nan if pool.is_floating_point() else 77)

    def random(self, *shape: int) -> torch.Tensor:
        self.seed += 1
        return normal(self.seed, *shape)

    def step(self, spans: dict[int, tuple[int, int]], dtype: torch.dtype) -> None:
        """Append and attend; every span is (start, length)."""
        sequences = list(spans)
        starts, lengths = (list(column) for column in zip(*spans.values(), strict=True))
        table = self.pages.table(sequences, starts, lengths)
        layer, rows = self.layer, table.num_rows
        queries = self.random(layer.num_heads, rows, layer.head_dim).transpose(0, 1).to(dtype)
        keys = self.random(layer.num_kv_heads, rows, layer.head_dim).transpose(0, 1).to(dtype)
        values = self.random(rows, layer.num_kv_heads, layer.value_dim).to(dtype)
        self.backend.append(1, table, keys.to(DEVICE), values.to(DEVICE))
        for sequence, start, k, v in zip(
            sequences, starts, keys.split(lengths), values.split(lengths), strict=True
        ):
            self.twin.write(sequence, start, k, v)
        self.compare(sequences, table, queries)

    def compare(self, sequences: list[int], table: SpanTable, queries: torch.Tensor) -> None:
        output, lse = self.backend.attend(1, table, queries.to(DEVICE))
        expected, expected_lse = self.twin.attend_all(sequences, table, queries)
        assert output.dtype == queries.dtype
        assert output.shape == expected.shape
        assert lse.dtype == torch.float32
        tolerance = TOLERANCE[self.kv_dtype] + 2 * torch.finfo(queries.dtype).eps
        assert relative_error(output, expected) < tolerance
        assert (lse.cpu() - expected_lse).abs().max() < 20 * tolerance


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu().float() - expected).norm() / expected.norm())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    layer=LAYERS,
    kv_dtype=st.sampled_from([*DTYPES, "int8"]),
    dtype=st.sampled_from(list(DTYPES.values())),
    page_tokens=st.integers(3, 8),
    data=st.data(),
)
def test_ragged_steps_over_scattered_pages_equal_plain_tensors(
    layer: AttentionLayer, kv_dtype: str, dtype: torch.dtype, page_tokens: int, data: st.DataObject
) -> None:
    """Several tokens a span, positions written again, sequences of several chunks."""
    ragged = Ragged(layer, kv_dtype, page_tokens)
    for longest in (40, 6):
        members = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True))
        ragged.step({s: _span(ragged, s, longest, data) for s in members}, dtype)


def _span(ragged: Ragged, sequence: int, longest: int, data: st.DataObject) -> tuple[int, int]:
    start = data.draw(st.integers(0, ragged.twin.length(sequence)))
    return start, data.draw(st.integers(1, longest))


FEATURES: dict[str, dict[str, Any]] = {
    "none": {},
    "a window": {"window": 21},
    "a window of one": {"window": 1},
    "a softcap": {"softcap": 2.0},
    "sinks": {"sinks": (0.5, -1.0, 3.0, 0.0, 1.0, -2.0)},
    "everything": {"window": 18, "softcap": 5.0, "sinks": (0.5, -1.0, 3.0, 0.0, 1.0, -2.0)},
}


@pytest.mark.parametrize("feature", list(FEATURES))
def test_every_feature_over_several_chunks(feature: str) -> None:
    """Decode rows, a few tokens, and a prompt behind a prefix in one step, in float32."""
    ragged = Ragged(AttentionLayer(6, 2, 20, 12, 0.3, **FEATURES[feature]), "float32", 5)
    ragged.step({0: (0, 37), 1: (0, 16)}, torch.float32)
    ragged.step({0: (37, 1), 1: (16, 4), 2: (0, 1)}, torch.float32)
    ragged.step({1: (13, 25), 2: (1, 1), 0: (38, 1)}, torch.float32)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("kv_dtype", [*DTYPES, "int8"])
def test_every_pair_of_types(kv_dtype: str, dtype: str) -> None:
    ragged = Ragged(AttentionLayer(4, 1, 24, 40, 0.25), kv_dtype, 8)
    ragged.step({0: (0, 20), 1: (0, 3)}, DTYPES[dtype])
    ragged.step({0: (20, 1), 1: (3, 1)}, DTYPES[dtype])


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (17, 1), (64, 1), (3, 3)])
def test_groups_of_any_size(heads: int, kv_heads: int) -> None:
    ragged = Ragged(AttentionLayer(heads, kv_heads, 8, 8, 0.3), "float32", 8)
    ragged.step({0: (0, 30)}, torch.float32)
    ragged.step({0: (30, 1), 1: (0, 2)}, torch.float32)


def test_int8_stays_within_one_percent() -> None:
    ragged = Ragged(AttentionLayer(8, 1, 128, 128, 128**-0.5), "int8", 32)
    ragged.step({0: (0, 60)}, torch.float32)
    table = ragged.pages.table([0], [59], [1])
    queries = normal(9, 1, 8, 128)
    output, _ = ragged.backend.attend(1, table, queries.to(DEVICE))
    assert relative_error(output, ragged.twin.attend(0, queries, 59)[0]) < 0.01


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_finite_stays_so_in_int8() -> None:
    backend, pages = (
        TritonBackend((PLAIN,), 2, 4, "int8", DEVICE, chunk_tokens=CHUNK),
        PageTable(2, 4),
    )
    values = torch.tensor([1.0, torch.inf, 2.0, 3.0]).view(1, 1, 4)
    rows = (rows.to(DEVICE) for rows in (torch.ones(1, 2, 4), torch.ones(1, 1, 4), values))
    output, _ = backend.append_attend(0, pages.table([1], [0], [1]), *rows)
    assert output.isnan().all()


def test_a_position_written_again_is_replaced() -> None:
    for kv_dtype in ("float32", "int8"):
        backend = TritonBackend((PLAIN,), 2, 4, kv_dtype, DEVICE, chunk_tokens=CHUNK)
        pages, key = PageTable(2, 4), torch.ones(1, 1, 4, device=DEVICE)
        for value in (5.0, 7.0):
            table = pages.table([1], [0], [1])
            backend.append(0, table, key, torch.full_like(key, value))
            output, _ = backend.attend(0, table, torch.ones(1, 2, 4, device=DEVICE))
            torch.testing.assert_close(
                output.cpu(), torch.full((1, 2, 4), value), rtol=0.01, atol=0
            )


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_a_copied_page_answers_alike_in_every_layer(kv_dtype: str) -> None:
    backend = TritonBackend((PLAIN, PLAIN), 3, 4, kv_dtype, DEVICE, chunk_tokens=CHUNK)
    answers = []
    for layer in (0, 1):
        rows = (normal(10 * layer + n, 3, heads, 4).to(DEVICE) for n, heads in enumerate((2, 1, 1)))
        answers.append(backend.append_attend(layer, _first_tokens(page=0), *rows)[0])
    assert not torch.equal(*answers)
    backend.copy_page(0, 2)
    for layer in (0, 1):
        queries = normal(10 * layer, 3, 2, 4).to(DEVICE)
        found, _ = backend.attend(layer, _first_tokens(page=2), queries)
        assert torch.equal(found, answers[layer])


def _first_tokens(page: int) -> SpanTable:
    """A sequence of three new tokens in one page."""
    columns = ([0], [3], [page], [0, 1])
    return SpanTable(*(torch.tensor(column, dtype=torch.int32) for column in columns), 3)


def test_an_answer_does_not_depend_on_what_runs_beside_it() -> None:
    layer = AttentionLayer(4, 2, 16, 16, 0.25, window=30)
    spans = {1: (40, 1), 2: (33, 3), 3: (0, 20)}
    rows = {
        s: tuple(normal(s + 10 * n, start + length, heads, 16) for n, heads in enumerate((4, 2, 2)))
        for s, (start, length) in spans.items()
    }

    def answer(members: list[int]) -> list[torch.Tensor]:
        pages = PageTable(64, 4)
        backend = TritonBackend((layer,), 64, 4, "float32", DEVICE, chunk_tokens=CHUNK)
        for s in members:
            whole = pages.table([s], [0], [sum(spans[s])])
            backend.append(0, whole, *(tensor.to(DEVICE) for tensor in rows[s][1:]))
        starts, lengths = ([spans[s][i] for s in members] for i in (0, 1))
        queries = torch.cat([rows[s][0][spans[s][0] :] for s in members]).to(DEVICE)
        output, lse = backend.attend(0, pages.table(members, starts, lengths), queries)
        row = sum(lengths[: members.index(2)])
        return [output[row : row + 3], lse[row : row + 3]]

    for members in ([1, 2, 3], [3, 2]):
        assert all(map(torch.equal, answer([2]), answer(members)))


def test_a_tensor_that_does_not_fit_is_an_error() -> None:
    backend, pages = TritonBackend((PLAIN,), 2, 4, "float32", DEVICE), PageTable(2, 4)
    table, key = pages.table([1], [0], [1]), torch.ones(1, 1, 4, device=DEVICE)
    with pytest.raises(WireError, match="keys must have shape"):
        backend.append(0, table, key[..., :3], key)
    with pytest.raises(WireError, match="values must be float32"):
        backend.append(0, table, key, key.int())
    with pytest.raises(WireError, match="layer 1"):
        backend.attend(1, table, torch.ones(1, 2, 4, device=DEVICE))


def _takes(name: str, layer: AttentionLayer = PLAIN, kv_dtype: str = "int8") -> str:
    return BackendChoice((layer,), kv_dtype, torch.device(DEVICE), name=name).kind


def test_a_backend_is_chosen_by_name_and_by_shape() -> None:
    assert _takes("triton") == "triton"
    with pytest.raises(WorkerRefused, match="head sizes up to 256"):
        _takes("triton", AttentionLayer(1, 1, 512, 8, 1.0))
    cuda = torch.device("cuda")
    small = BackendChoice((AttentionLayer(1, 1, 512, 8, 1.0),), "int8", cuda, name="torch")
    with pytest.raises(WorkerRefused, match=r"int8 needs the native backend .* or the triton"):
        _ = small.page_bytes


@pytest.mark.parametrize("kv_dtype", [*DTYPES, "int8"])
def test_page_bytes_is_the_memory_that_a_page_takes(kv_dtype: str) -> None:
    layers = (PLAIN, AttentionLayer(6, 2, 20, 12, 0.3))
    choice = BackendChoice(layers, kv_dtype, torch.device(DEVICE), name="triton")
    backend = choice.make(3)
    assert isinstance(backend, TritonBackend)
    pools = [pool for held in backend._layers for pool in held.pools]
    assert sum(pool.nbytes for pool in pools) == 3 * choice.page_bytes


@pytest.mark.skipif(not is_interpreted(), reason="a GPU is here")
def test_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glinthawk.tier2.backends.triton.is_interpreted", lambda: False)
    with pytest.raises(WorkerRefused, match="needs a GPU"):
        KVCache((PLAIN,), 1 << 16, "float32", backend="triton")


def test_a_worker_over_it_decodes_as_the_truth_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = partial(KVCache, backend="triton")
    monkeypatch.setattr("glinthawk.tier2.session.KVCache", cache)
    layers = (AttentionLayer(4, 2, 8, 6, 0.4), AttentionLayer(2, 1, 8, 8, 0.3, window=3))
    talk = Talk(layers, pages=4, device=DEVICE)
    talk.open()
    assert talk.prefill(0, 7, 5, seed=20) == (Stored(0), ())
    outputs = talk.decode(1, 7, 5, seed=30)
    for index, layer in enumerate(layers):
        twin = Twin(layer, talk.dtype)
        twin.write(0, 0, *talk.tensors(index, 20, 5)[1:])
        query, *rows = talk.tensors(index, 30, 1)
        twin.write(0, 5, *rows)
        torch.testing.assert_close(outputs[index], twin.attend(0, query, 5)[0])


#: Bytes of shared memory that a program may take, on a GPU of such capability.
SHARED_MEMORY = {75: 65_536, 80: 101_376, 90: 101_376, 100: 101_376}


def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """The interpreter runs what the compiler would refuse."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = [line.split() for line in done.stdout.splitlines()]
    assert len(made) == (4 + 3 + 3 + 1) * 4  # append, narrow and wide pieces, merge
    assert {int(capability) for capability, *_ in made} == SHARED_MEMORY.keys()
    for capability, _, shared in made:
        assert int(shared) <= SHARED_MEMORY[int(capability)]


@pytest.mark.parametrize(
    ("capability", "num_heads", "head_dim", "kind"),
    [
        ((7, 0), 8, 128, "torch"),
        ((7, 5), 8, 128, "triton"),
        ((7, 5), 64, 128, "triton"),
        ((7, 5), 64, 256, "torch"),
        ((8, 0), 64, 256, "triton"),
    ],
)
def test_gpus_of_every_age(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    num_heads: int,
    head_dim: int,
    kind: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    layers = (AttentionLayer(num_heads, 1, head_dim, head_dim, 0.1),)
    choice = BackendChoice(layers, "float16", torch.device("cuda"))
    assert choice.kind == kind
    if (capability, kind) == ((7, 5), "torch"):
        with pytest.raises(WorkerRefused, match="shared memory"):
            _ = replace(choice, name="triton").kind
