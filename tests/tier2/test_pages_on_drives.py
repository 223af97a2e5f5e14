"""Pages on drives: the same bits as in memory, whatever goes out and comes back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk import _native
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.drives import Drive
from glinthawk.core.errors import DriveFailed, UsageError, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.native import NativeBackend
from glinthawk.tier2.page_files import PageFiles
from glinthawk.tier2.storage import StorageBackend

LAYERS = (
    AttentionLayer(4, 2, 32, 32, scaling=0.2),
    AttentionLayer(4, 2, 32, 16, scaling=0.2, window=70, softcap=30.0),
    AttentionLayer(2, 2, 64, 64, scaling=0.1, sinks=(0.5, -0.5)),
)
#: So little memory that nearly everything is on a drive: a few frames beside the buffers.
MEMORY = {"int8": 3 << 18, "bfloat16": 3 << 19, "float32": 3 << 19}
DRIVES = 2


@contextmanager
def open_files(folder: Path, num_bytes: int = 4 << 20) -> Iterator[tuple]:
    drives = [Drive(folder, num_bytes // DRIVES) for _ in range(DRIVES)]
    with PageFiles(drives) as files:
        yield files


class Twins:
    """One cache in memory and one on drives, to which the same things happen."""

    def __init__(self, files: tuple, kv_dtype: str) -> None:
        self.near = KVCache(LAYERS, 8 << 20, kv_dtype, threads=2)
        self.far = KVCache(LAYERS, MEMORY[kv_dtype], kv_dtype, threads=2, files=files)
        self.lengths: dict[int, int] = {}
        self.generator = torch.Generator().manual_seed(7)

    @property
    def backend(self) -> StorageBackend:
        assert isinstance(self.far._backend, StorageBackend)
        return self.far._backend

    def rows(self, count: int, heads: int, dim: int) -> torch.Tensor:
        return torch.randn(count, heads, dim, generator=self.generator).to(torch.bfloat16)

    def prompt(self, sequence: int, length: int) -> None:
        caches = (self.near, self.far)
        columns = ([], [], []), ([sequence], [0], [length])
        tables = [cache.begin([], *columns)[1] for cache in caches]
        for index, layer in enumerate(LAYERS):
            kv = [
                self.rows(length, layer.num_kv_heads, size)
                for size in (layer.head_dim, layer.value_dim)
            ]
            for cache, table in zip(caches, tables, strict=True):
                cache.store(index, table, *kv)
        for cache, table in zip(caches, tables, strict=True):
            cache.end(table)
        self.lengths[sequence] = length

    def step(self, forks: list[tuple[int, int, int]], spans: list[tuple[int, int, int]]) -> None:
        """Spans are attended to; both answer the same bits."""
        columns = tuple(map(list, zip(*spans, strict=True)))
        caches = (self.near, self.far)
        tables = [cache.begin(forks, columns)[0] for cache in caches]
        count = sum(columns[2])
        for index, layer in enumerate(LAYERS):
            q = self.rows(count, layer.num_heads, layer.head_dim)
            k = self.rows(count, layer.num_kv_heads, layer.head_dim)
            v = self.rows(count, layer.num_kv_heads, layer.value_dim)
            outputs = [
                cache.attend(index, table, q, k, v)
                for cache, table in zip(caches, tables, strict=True)
            ]
            assert torch.equal(*outputs)
        for cache, table in zip(caches, tables, strict=True):
            cache.end(table)
        for sequence, start, length in spans:
            self.lengths[sequence] = max(self.lengths.get(sequence, 0), start + length)

    def decode(self) -> None:
        if self.lengths:
            self.step([], [(number, length, 1) for number, length in self.lengths.items()])

    def release(self, sequence: int) -> None:
        for cache in (self.near, self.far):
            cache.release([sequence])
        del self.lengths[sequence]


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "float32", "int8"])
def test_outputs_are_the_same_bits_as_in_memory(tmp_path: Path, kv_dtype: str) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, kv_dtype)
        for number, length in enumerate([700, 33, 1, 320, 96]):
            twins.prompt(number, length)
        for _ in range(40):
            twins.decode()
        stats = twins.backend.stats
        assert stats.bytes_read > 0
        assert stats.bytes_written > 0
        twins.backend.validate()


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    events = st.tuples(
        st.sampled_from(["prompt", "decode", "decode", "release", "fork", "again", "extend"]),
        st.integers(0, 1 << 16),
        st.integers(1, 400),
    )
    return draw(st.lists(events, min_size=4, max_size=24))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(story=stories(), only_threads=st.booleans())
def test_whatever_happens_to_sequences(
    tmp_path: Path, story: list[tuple[str, int, int]], only_threads: bool
) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        for number, (event, chosen, size) in enumerate(story):
            tell(twins, number, event, chosen, size)
            twins.backend.validate()


def tell(twins: Twins, number: int, event: str, chosen: int, size: int) -> None:
    living = sorted(twins.lengths)
    some = living[chosen % len(living)] if living else None
    most = twins.far.most_sequences
    held = sum(-(-length // PAGE_TOKENS) + 1 for length in twins.lengths.values())
    has_room = len(living) < most and held + 16 < twins.far.pages.num_pages
    if event == "prompt" and has_room:
        twins.prompt(number, size)
    elif event == "decode":
        twins.decode()
    elif some is None:
        return
    elif event == "release":
        twins.release(some)
    elif event == "fork" and has_room:
        shared = min(size, twins.lengths[some])
        twins.step([(some, number, shared)], [(number, shared, 3)])
    elif event == "again":  # a step that is made again writes where something was written before
        start = chosen % twins.lengths[some]
        twins.step([], [(some, start, min(5, twins.lengths[some] - start))])
    elif event == "extend" and has_room:
        twins.step([], [(some, twins.lengths[some], size % 90 + 1)])


def test_a_prompt_that_was_given_up_holds_nothing(tmp_path: Path) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        twins.prompt(0, 500)
        table = twins.far.begin([], ([], [], []), ([1], [0], [600]))[1]
        layer = LAYERS[0]
        k, v = (twins.rows(600, layer.num_kv_heads, size) for size in (32, 32))
        twins.far.store(0, table, k, v)
        twins.far.end(table)
        twins.far.pages.rewind([1], [0])
        twins.far.release([1])
        twins.prompt(1, 600)
        twins.decode()
        twins.backend.validate()


def test_each_page_is_written_once(tmp_path: Path) -> None:
    with open_files(tmp_path, 16 << 20) as files:
        twins = Twins(files, "bfloat16")
        twins.prompt(0, 3000)
        for _ in range(200):
            twins.decode()
        padded = sum(
            -(-twins.backend._drives.unit_bytes(layer) // 4096) * 4096 for layer in range(3)
        )
        assert twins.backend.stats.bytes_written <= -(-3200 // PAGE_TOKENS) * padded


def test_nothing_goes_out_while_there_is_room(tmp_path: Path) -> None:
    with open_files(tmp_path) as files:
        cache = KVCache(LAYERS, 8 << 20, "bfloat16", threads=1, files=files)
        table = cache.begin([], ([], [], []), ([0], [0], [320]))[1]
        assert table is not None
        for index, layer in enumerate(LAYERS):
            k, v = (
                torch.zeros(320, layer.num_kv_heads, size)
                for size in (layer.head_dim, layer.value_dim)
            )
            cache.store(index, table, k, v)
        cache.end(table)
        assert cache._backend.stats.bytes_written == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["other bytes", "end early"])
def test_a_drive_that_lies_is_never_believed(tmp_path: Path, damage: str) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        twins.prompt(0, 1200)
        twins.decode()
        for file in files:
            if damage == "other bytes":
                os.pwrite(os.open(f"/proc/self/fd/{file.descriptor}", os.O_RDWR), b"!" * 65536, 0)
            else:
                os.truncate(file.descriptor, 0)
        with pytest.raises(DriveFailed, match=str(tmp_path)):
            twins.decode()
        with pytest.raises(DriveFailed, match=str(tmp_path)):
            twins.far.begin([], ([9], [0], [1]))


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    with open_files(tmp_path) as files, pytest.raises(WorkerRefused, match="needs memory"):
        KVCache(LAYERS, 1 << 16, "bfloat16", files=files)


def test_other_backends_know_no_drives(tmp_path: Path) -> None:
    with open_files(tmp_path) as files, pytest.raises(WorkerRefused, match="--storage"):
        KVCache(LAYERS, MEMORY["bfloat16"], "bfloat16", backend="torch", files=files)


def test_page_files_have_no_name_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / "glinthawk-pages-left").write_bytes(b"x")
    (tmp_path / "mine").write_bytes(b"x")
    with open_files(tmp_path) as files:
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]
        assert os.fstat(files[0].descriptor).st_blocks * 512 >= files[0].num_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("drive", "words"),
    [
        (Drive(Path("/nowhere"), 1 << 20), "/nowhere"),
        (Drive(Path("/tmp"), 1 << 60), "/tmp cannot give"),
    ],
)
def test_a_drive_that_cannot_be_used_is_said(drive: Drive, words: str) -> None:
    with pytest.raises(UsageError, match=words), PageFiles([drive]):
        pass


@given(st.binary(min_size=1, max_size=64).map(lambda some: (some * 4096)[:4096]))
def test_checksums_agree_with_the_plain_ones(content: bytes) -> None:
    tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    sums = [_native.checksum(tensor.data_ptr(), len(content), plain) for plain in (True, False)]
    assert sums[0] == sums[1]
    tensor[len(content) // 3] ^= 1
    assert _native.checksum(tensor.data_ptr(), len(content), False) != sums[0]


def test_pages_are_packed_alike_wherever_they_are(tmp_path: Path) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        twins.prompt(0, 900)
        packed = []
        for cache in (twins.near, twins.far):
            backend = cache._backend
            assert isinstance(backend, NativeBackend)
            pages = torch.tensor(cache.pages._pages.held[0], dtype=torch.int32)
            unit = backend._engine.unit_bytes(0)
            units = torch.empty(len(pages), unit, dtype=torch.uint8)
            backend._engine.read(0, pages.data_ptr(), len(pages), units.data_ptr())
            packed.append(units[: 900 // PAGE_TOKENS])
        assert torch.equal(*packed)
