"""Layers, random tensors and sequences in pages, for tests of anything that attends."""

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["DTYPES", "LAYERS", "Twin", "normal"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@st.composite
def _layers(draw: st.DrawFn) -> AttentionLayer:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    heads = kv_heads * group
    return AttentionLayer(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 24)),
        value_dim=draw(st.integers(1, 24)),
        scaling=draw(st.sampled_from([0.1, 0.25, 1.0])),
        window=draw(st.none() | st.integers(1, 12)),
        softcap=draw(st.none() | st.sampled_from([0.5, 5.0, 50.0])),
        sinks=draw(st.none() | st.just(tuple(0.5 * head - 1 for head in range(heads)))),
    )


#: Grouped and plain queries, value size apart from key size, windows, softcaps, sinks.
LAYERS = _layers()


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Reproducible random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@dataclass
class Twin:
    """The truth beside a paged cache: keys and values of every sequence as plain tensors."""

    layer: AttentionLayer
    kv_dtype: torch.dtype
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def length(self, sequence: int) -> int:
        return len(self.keys[sequence]) if sequence in self.keys else 0

    def write(self, sequence: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write new tokens from ``start``; a position may be written again."""
        for store, rows in ((self.keys, keys), (self.values, values)):
            old = store.get(sequence, rows[:0].to(self.kv_dtype))
            rows = rows.to(self.kv_dtype)
            store[sequence] = torch.cat([old[:start], rows, old[start + len(rows) :]])

    def attend(
        self, sequence: int, queries: torch.Tensor, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What queries from ``start`` on should see."""
        end = start + len(queries)
        keys, values = self.keys[sequence][:end], self.values[sequence][:end]
        return attend_sequence(queries, keys, values, self.layer)

    def attend_all(
        self, sequences: list[int], table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``attend`` for every span of a step."""
        blocks = queries.split(table.lengths.tolist())
        starts = table.starts.tolist()
        answers = [
            self.attend(sequence, block, start)
            for sequence, block, start in zip(sequences, blocks, starts, strict=True)
        ]
        return torch.cat([o for o, _ in answers]), torch.cat([lse for _, lse in answers])
