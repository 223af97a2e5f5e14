"""Pages on drives: the same bits as in memory, whatever goes out and comes back."""

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk import _native
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.drives import Drive
from glinthawk.core.errors import DriveFailed, UsageError, WireError, WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.backends.storage import StorageBackend
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_files import PageFiles
from glinthawk.tier2.pages.page_table import PageTable
from glinthawk.wire.messages import VERSION, Begin, Fault, Open, Spans, Store
from worker_talk import NONE, Talk

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
        assert isinstance(self.far.backend, StorageBackend)
        return self.far.backend

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
                cache.backend.append(index, table, *kv)
        for cache, table in zip(caches, tables, strict=True):
            cache.backend.end(table)
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
                cache.backend.append_attend(index, table, q, k, v)[0]
                for cache, table in zip(caches, tables, strict=True)
            ]
            assert torch.equal(*outputs)
        for cache, table in zip(caches, tables, strict=True):
            cache.backend.end(table)
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
        twins.far.backend.append(0, table, k, v)
        twins.far.backend.end(table)
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
            cache.backend.append(index, table, k, v)
        cache.backend.end(table)
        assert cache.backend.stats.bytes_written == 0  # type: ignore[attr-defined]


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


#: How writes fail, by what is done to the page file.
_FAILING = ("a full drive", "a file that may only be read", "a limit on files")


@contextmanager
def failing_writes(how: str, descriptor: int) -> Iterator[None]:
    """Whatever is written to the file from now on does not arrive."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    is_full = how == "a full drive"
    other = os.open("/dev/full" if is_full else "/dev/null", os.O_RDWR if is_full else os.O_RDONLY)
    try:
        if how == "a limit on files":  # Python ignores its signal
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        else:
            os.dup2(other, descriptor)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.close(other)


@pytest.mark.parametrize("only_threads", [False, True])
@pytest.mark.parametrize("how", _FAILING)
def test_a_drive_whose_writes_fail_says_so_and_holds_nobody_up(
    tmp_path: Path, how: str, only_threads: bool
) -> None:
    """No call waits for ever, all frames come back, and all that is asked from then on is refused:
    long prompts, whose pages go to the drive at once, and pages that go out behind their back."""
    with open_files(tmp_path) as files:
        backend = StorageBackend(
            LAYERS, PAGE_TOKENS, "bfloat16", MEMORY["bfloat16"], files, 2, only_threads=only_threads
        )
        with ExitStack() as failing:
            for file in files:
                failing.enter_context(failing_writes(how, file.descriptor))
            with pytest.raises(DriveFailed, match=f"writing to {tmp_path} failed"):
                _fill(backend)
            with pytest.raises(DriveFailed, match=f"writing to {tmp_path} failed"):
                _fill(backend)
            backend.release(range(backend.num_pages))
            backend.validate()
            assert backend.stats.num_available == backend.stats.num_frames
            del backend


def _fill(backend: StorageBackend) -> None:
    """Prompts, one after the other, over all pages."""
    pages = PageTable(backend.num_pages, PAGE_TOKENS)
    count = backend.num_pages // 3
    for sequence in range(3):
        table = pages.table([sequence], [0], [count * PAGE_TOKENS - 5])
        backend.begin(table)
        for index, layer in enumerate(LAYERS):
            k, v = (
                torch.ones(table.num_rows, layer.num_kv_heads, size)
                for size in (layer.head_dim, layer.value_dim)
            )
            backend.append(index, table, k, v)
        backend.end(table)


def test_a_worker_whose_drive_fails_refuses_and_goes_on(tmp_path: Path) -> None:
    """Nobody is served wrong bytes, nobody waits, and the worker lives."""
    with open_files(tmp_path) as files, ExitStack() as failing:
        talk = Talk(LAYERS, files=files)
        talk.worker._kv_bytes = MEMORY["float32"]
        talk.open()
        for file in files:
            failing.enter_context(failing_writes("a full drive", file.descriptor))
        faults = []
        for step in range(8):
            said = [(Begin(step, NONE, Spans([step], [0], [500])), [])]
            said += [(Store(step, i), talk.frames(i, 1, 500)[1:]) for i in range(len(LAYERS))]
            faults += [talk.say(message, *frames) for message, frames in said]
        refused = [answer[0] for answer in faults if answer and isinstance(answer[0], Fault)]
        assert any("writing to" in fault.text and fault.refused for fault in refused)
        again = Open(VERSION, list(LAYERS), "float32", "float32")
        assert "writing to" in talk.fault(again).text


def test_too_little_memory_for_an_answer_is_no_failure_of_a_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        twins.prompt(0, 500)
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no memory"):
            patch.setattr(twins.backend, "_query_output", _no_memory)
            twins.far.backend.attend(
                0, twins.far.pages.look_at([0], [0], [500]), torch.zeros(1, 4, 32)
            )
        twins.decode()


def _no_memory(*_: object) -> None:
    raise RuntimeError("there is no memory for this")


def test_a_step_for_which_memory_is_short_changes_nothing(tmp_path: Path) -> None:
    """As many sequences as memory has frames for their last pages, and one more."""
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        pages = twins.far.pages
        for number in range(3):
            twins.prompt(number, 70)
        twins.prompt(3, 320)
        held = {number: held.copy() for number, held in pages._pages.held.items()}
        tokens = pages._tokens.copy()
        frames = twins.backend.stats.num_frames
        many = list(range(10, 10 + frames))
        # Pages of old ones are written again as a whole, others are shared, and there are new ones.
        extends = ([0, 3, 9], [0, 31, 40], [64, 200, 30])
        prompts = (many, [0] * frames, [1] * frames)
        with pytest.raises(WireError, match="fewer sequences"):
            twins.far.begin([(1, 9, 40)], extends, prompts)
        assert pages._pages.held == held
        assert pages._tokens == tokens
        pages._pages.validate()
        twins.backend.validate()
        for _ in range(3):
            twins.decode()
        twins.step([(1, 9, 40)], [(0, 0, 64), (3, 31, 200), (9, 40, 30)])


def test_a_shared_page_that_is_written_again_as_a_whole(tmp_path: Path) -> None:
    with open_files(tmp_path) as files:
        twins = Twins(files, "bfloat16")
        twins.prompt(0, 1000)
        for number in (1, 2):
            twins.step([(0, number, 600)], [(number, 64, 500)])
        twins.decode()


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
            backend = cache.backend
            assert isinstance(backend, NativeBackend)
            pages = torch.tensor(cache.pages._pages.held[0], dtype=torch.int32)
            unit = backend._engine.unit_bytes(0)
            units = torch.empty(len(pages), unit, dtype=torch.uint8)
            backend._engine.read(0, pages.data_ptr(), len(pages), units.data_ptr())
            packed.append(units[: 900 // PAGE_TOKENS])
        assert torch.equal(*packed)
