"""KV pages as plain tensors: the slow truth every other backend is compared with."""

import torch

from glinthawk.attention.reference import attend_sequence
from glinthawk.core.errors import WorkerRefused
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.backend import UNREADABLE, Backend
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["TorchBackend", "attend_sequence"]


class TorchBackend(Backend):
    """Pages as (num_pages, page_tokens, K, D) tensors; one sequence at a time."""

    def __init__(
        self,
        layers: tuple[AttentionLayer, ...],
        num_pages: int,
        page_tokens: int,
        kv_dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self._layers = layers
        self._page_tokens = page_tokens
        shape = (num_pages, page_tokens)
        self._keys = [
            torch.empty(*shape, layer.num_kv_heads, layer.head_dim, dtype=kv_dtype, device=device)
            for layer in layers
        ]
        self._values = [
            torch.empty(*shape, layer.num_kv_heads, layer.value_dim, dtype=kv_dtype, device=device)
            for layer in layers
        ]

    @property
    def kernel(self) -> str:
        return f"torch {torch.__version__}"

    def append(
        self, layer: int, table: SpanTable, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        slots = self._slots(table)
        for pool, rows in ((self._keys[layer], keys), (self._values[layer], values)):
            pool.flatten(0, 1)[slots.to(pool.device)] = rows.to(pool.dtype)

    def attend(
        self, layer: int, table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        spec = self._layers[layer]
        outputs, lses, row = [], [], 0
        for span, length in enumerate(table.lengths.tolist()):
            keys, values = self._gather(layer, table, span)
            output, lse = attend_sequence(queries[row : row + length], keys, values, spec)
            outputs.append(output)
            lses.append(lse)
            row += length
        return torch.cat(outputs).to(queries.dtype), torch.cat(lses)

    def append_attend(
        self,
        layer: int,
        table: SpanTable,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.append(layer, table, keys, values)
        return self.attend(layer, table, queries)

    def copy_page(self, source: int, target: int) -> None:
        for pool in (*self._keys, *self._values):
            pool[target] = pool[source]

    def unit_bytes(self, layer: int) -> int:
        raise WorkerRefused(UNREADABLE)

    def read(self, layer: int, table: SpanTable) -> torch.Tensor:
        raise WorkerRefused(UNREADABLE)

    def _gather(self, layer: int, table: SpanTable, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of what one span sees of its sequence, (S, K, D) and (S, K, Dv)."""
        first, last = int(table.offsets[span]), int(table.offsets[span + 1])
        pages = table.pages[first:last].to(self._keys[layer].device, torch.int64)
        num_tokens = int(table.starts[span] + table.lengths[span])
        oldest = int(table.oldest[span]) if table.oldest is not None else 0
        keys = self._keys[layer][pages].flatten(0, 1)[oldest:num_tokens]
        values = self._values[layer][pages].flatten(0, 1)[oldest:num_tokens]
        return keys, values

    def _slots(self, table: SpanTable) -> torch.Tensor:
        """Flat index, page * page_tokens + offset in the page, of every new token."""
        slots = []
        for span, length in enumerate(table.lengths.tolist()):
            start = int(table.starts[span])
            positions = torch.arange(start, start + length)
            page = table.pages[table.offsets[span] + positions // self._page_tokens]
            slots.append(page.long() * self._page_tokens + positions % self._page_tokens)
        return torch.cat(slots)
