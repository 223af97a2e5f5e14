"""Steps over a NativeBackend with their expected results."""

from dataclasses import dataclass, field

import pytest
import torch

from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.native import KV_DTYPES, NativeBackend, supported_isas
from glinthawk.tier2.backends.torch import attend_sequence
from glinthawk.tier2.pages.page_table import PageTable, SpanTable

ISAS = ("portable", "avx2", "avx512", "avx512_bf16", "amx_emulated", "amx")
KV = ("float32", "bfloat16", "float16", "int8")

#: Relative norm of the error against float32 attention over the keys and values as they are kept.
TOLERANCE = {"float32": 2e-5, "float16": 2e-5, "bfloat16": 4e-3, "int8": 1.5e-2}


def int32(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def require(isa: str) -> str:
    if isa not in supported_isas():
        pytest.skip(f"this machine has no {isa}")
    return isa


def make_layer(
    num_heads: int = 4, num_kv_heads: int = 2, head_dim: int = 32, value_dim: int = 32, **features
) -> AttentionLayer:
    return AttentionLayer(
        num_heads, num_kv_heads, head_dim, value_dim, scaling=head_dim**-0.5, **features
    )


def as_kept(rows: torch.Tensor, kv_dtype: str) -> torch.Tensor:
    """What the cache still knows of ``rows``; int8 counts as an error of the kernel."""
    return rows.float() if kv_dtype == "int8" else rows.to(getattr(torch, kv_dtype)).float()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@dataclass
class Cache:
    """A backend whose every slot held garbage before, and the truth beside it."""

    layer: AttentionLayer
    kv_dtype: str = "float32"
    isa: str = "auto"
    threads: int = 2
    num_pages: int = 128
    page_tokens: int = 32
    dtype: torch.dtype = torch.float32
    on_torch_threads: bool = False
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.kv_dtype in KV_DTYPES
        self.backend = NativeBackend(
            (self.layer,),
            self.num_pages,
            self.page_tokens,
            self.kv_dtype,
            self.threads,
            self.isa,
            self.on_torch_threads,
        )
        self.pages = PageTable(self.num_pages, self.page_tokens)
        self._poison()

    def _poison(self) -> None:
        tokens = self.num_pages * self.page_tokens
        table = self.pages.table([-1], [0], [tokens])
        keys, values = self.random_rows(tokens)
        self.backend.append(0, table, keys * torch.nan, values * torch.nan)
        self.pages.release([-1])

    def random_rows(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self.layer
        keys = torch.randn(count, layer.num_kv_heads, layer.head_dim)
        values = torch.randn(count, layer.num_kv_heads, layer.value_dim)
        return keys.to(self.dtype), values.to(self.dtype)

    def random_queries(self, count: int) -> torch.Tensor:
        return torch.randn(count, self.layer.num_heads, self.layer.head_dim).to(self.dtype)

    def extend(self, lengths: dict[int, int]) -> SpanTable:
        """Append ``lengths`` new tokens to sequences; returns the table of that step."""
        starts = [len(self.keys.get(sequence, ())) for sequence in lengths]
        table = self.pages.table(list(lengths), starts, list(lengths.values()))
        keys, values = self.random_rows(table.num_rows)
        self.backend.append(0, table, keys, values)
        row = 0
        for sequence, length in lengths.items():
            self._remember(sequence, keys[row : row + length], values[row : row + length])
            row += length
        return table

    def _remember(self, sequence: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        for kept, rows in ((self.keys, keys), (self.values, values)):
            kept[sequence] = torch.cat([kept.get(sequence, rows[:0]), rows])

    def expected(self, sequence: int, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = as_kept(self.keys[sequence], self.kv_dtype)
        values = as_kept(self.values[sequence], self.kv_dtype)
        return attend_sequence(queries, keys, values, self.layer)

    def check(self, lengths: dict[int, int]) -> None:
        """Attend with new tokens and compare with the truth."""
        table = self.extend(lengths)
        queries = self.random_queries(table.num_rows)
        output, lse = self.backend.attend(0, table, queries)
        assert output.dtype == self.dtype
        row, outputs, lses = 0, [], []
        for sequence, length in lengths.items():
            part = self.expected(sequence, queries[row : row + length])
            outputs.append(part[0])
            lses.append(part[1])
            row += length
        rounding = torch.finfo(self.dtype).eps
        tolerance = TOLERANCE[self.kv_dtype] + rounding
        if self.kv_dtype == "bfloat16" and self.dtype != torch.bfloat16:
            tolerance *= 2  # queries are rounded to bfloat16 for its dot instructions
        assert relative_error(output, torch.cat(outputs)) < tolerance
        assert (lse - torch.cat(lses)).abs().max() < 20 * tolerance
