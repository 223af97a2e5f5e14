"""Attention over KV on a drive against the drive's own speed, and what writing it back costs.

The roof is what the same page file gives when it is read from end to end, the best of a few numbers
of reads under way; rounds of both alternate.
"""

import mmap
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.drives import Drive
from glinthawk.core.spec import AttentionLayer, kv_bytes_per_token
from glinthawk.tier2.backends.storage import StorageBackend
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_files import PageFile, PageFiles

__all__ = ["AttentionRow", "WriteBack", "measure_attention", "measure_write_back", "read_in_a_row"]

_BLOCK = 4 << 20
_AT_ONCE = (1, 4, 16)
#: Of the KV is in memory.
_IN_MEMORY = 1 / 8
_DTYPE = "bfloat16"


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """Steps of ``sequences`` of ``context`` tokens: medians, of ``ratio`` that of each round's."""

    context: int
    sequences: int
    #: Read from the drive; with what is in memory it is more.
    gbps: float
    roof_gbps: float
    ratio: float
    #: Bytes written for each byte of KV that was made.
    written: float


@dataclass(frozen=True, slots=True)
class WriteBack:
    """Steps that add a token to each sequence, against looking at what is there."""

    context: int
    steps: int
    #: Seconds more, of each step's.
    cost: float
    #: Bytes written in that time for each byte of KV that was made.
    written: float


class _Filled:
    """A cache full of random KV, most of it on the drive."""

    def __init__(
        self, file: PageFile, layers: Sequence[AttentionLayer], sequences: int, context: int
    ) -> None:
        kv_bytes = sequences * context * kv_bytes_per_token(layers, _DTYPE)
        memory = max(int(_IN_MEMORY * kv_bytes), 16 << 20)
        self.layers, self.numbers = layers, list(range(sequences))
        self.cache = KVCache(tuple(layers), memory, _DTYPE, files=[file])
        assert isinstance(self.cache.backend, StorageBackend)
        self.backend = self.cache.backend
        self.lengths = [context - PAGE_TOKENS * n // sequences for n in self.numbers]
        rows = [self._rows(context, layer)[1:] for layer in layers[:1]] * len(layers)
        for number, length in zip(self.numbers, self.lengths, strict=True):
            self._prompt(number, length, rows)

    @property
    def made_bytes(self) -> int:
        """KV that is there."""
        return sum(self.lengths) * kv_bytes_per_token(self.layers, _DTYPE)

    def _prompt(self, number: int, length: int, rows: list[tuple[torch.Tensor, ...]]) -> None:
        (table,) = self.cache.begin([], ([number], [0], [length]))
        assert table is not None
        for index, (k, v) in enumerate(rows):
            self.backend.append(index, table, k[:length], v[:length])
        self.backend.end(table)

    def _rows(self, count: int, layer: AttentionLayer) -> tuple[torch.Tensor, ...]:
        shapes = (
            (layer.num_heads, layer.head_dim),
            (layer.num_kv_heads, layer.head_dim),
            (layer.num_kv_heads, layer.value_dim),
        )
        return tuple(torch.randn(count, *shape).bfloat16() for shape in shapes)

    def look(self) -> float:
        """Seconds of a step that adds nothing."""
        ends = self.lengths
        table = self.cache.pages.look_at(self.numbers, [0] * len(ends), ends)
        rows = [self._rows(len(ends), layer)[0] for layer in self.layers]
        begun = time.perf_counter()
        for index, q in enumerate(rows):
            self.backend.attend(index, table, q)
        return time.perf_counter() - begun

    def step(self) -> float:
        """Seconds of a step that adds a token to each sequence."""
        rows = [self._rows(len(self.numbers), layer) for layer in self.layers]
        begun = time.perf_counter()
        columns = (self.numbers, self.lengths, [1] * len(self.numbers))
        (table,) = self.cache.begin([], columns)
        assert table is not None
        for index, qkv in enumerate(rows):
            self.backend.append_attend(index, table, *qkv)
        self.backend.end(table)
        self.lengths = [length + 1 for length in self.lengths]
        return time.perf_counter() - begun


@contextmanager
def _filled(
    folder: Path, layers: Sequence[AttentionLayer], num_bytes: int, context: int, steps: int
) -> Iterator[tuple[_Filled, PageFile]]:
    per_token = kv_bytes_per_token(layers, _DTYPE)
    sequences = max(1, num_bytes // (context * per_token))
    room = sequences * (context + steps + 2 * PAGE_TOKENS) * per_token
    with PageFiles([Drive(folder, int(1.1 * room) + (64 << 20))]) as (file,):
        yield _Filled(file, layers, sequences, context), file


def measure_attention(
    folder: Path, layers: Sequence[AttentionLayer], num_bytes: int, context: int, rounds: int
) -> AttentionRow:
    """Over about ``num_bytes`` of KV."""
    with _filled(folder, layers, num_bytes, context, rounds + 1) as (filled, file):
        filled.step()
        size, speeds, roofs = int(filled.made_bytes), [], [read_in_a_row(file, filled.made_bytes)]
        for _ in range(rounds):
            before = filled.backend.stats.bytes_read
            seconds = filled.step()
            speeds.append((filled.backend.stats.bytes_read - before) / seconds)
            roofs.append(read_in_a_row(file, size))
        written = filled.backend.stats.bytes_written / filled.made_bytes
    around = [(one + other) / 2 for one, other in pairwise(roofs)]
    return AttentionRow(
        context,
        len(filled.numbers),
        round(statistics.median(speeds) / 1e9, 3),
        round(statistics.median(around) / 1e9, 3),
        round(statistics.median(s / r for s, r in zip(speeds, around, strict=True)), 3),
        round(written, 3),
    )


def measure_write_back(
    folder: Path, layers: Sequence[AttentionLayer], num_bytes: int, context: int, steps: int
) -> WriteBack:
    """Both kinds of steps alternate; so many of each that every sequence fills pages."""
    with _filled(folder, layers, num_bytes, context, steps + 1) as (filled, _):
        filled.step()
        looks, adds = [], []
        for _ in range(steps):
            looks.append(filled.look())
            adds.append(filled.step())
        written = filled.backend.stats.bytes_written / filled.made_bytes
    cost = statistics.median(adds) / statistics.median(looks) - 1
    return WriteBack(context, steps, round(cost, 4), round(written, 3))


def read_in_a_row(file: PageFile, num_bytes: int) -> float:
    """Bytes a second of ``file`` from its start on, at best."""
    count = max(1, min(num_bytes, file.num_bytes) // _BLOCK)
    return max(_read(file, count, at_once) for at_once in _AT_ONCE)


def _read(file: PageFile, count: int, at_once: int) -> float:
    offsets = iter(range(0, count * _BLOCK, _BLOCK))

    def read_some() -> None:
        with mmap.mmap(-1, _BLOCK) as aligned:
            for offset in offsets:
                os.preadv(file.descriptor, [aligned], offset)

    begun = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        for reading in [pool.submit(read_some) for _ in range(at_once)]:
            reading.result()
    return count * _BLOCK / (time.perf_counter() - begun)
