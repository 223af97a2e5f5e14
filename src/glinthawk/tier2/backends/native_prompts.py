"""Attention of whole prompts by the native kernels, for a Tier 1 that is a CPU."""

from collections.abc import Sequence

import torch

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.choice import BackendChoice
from glinthawk.tier2.backends.native import NativeBackend
from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["PromptKernel"]


class PromptKernel:
    """Causal attention over pages of its own, which hold one layer of one step and no more.

    Layers that attend alike share their pages, so the memory is that of a few layers.
    """

    def __init__(self, layers: Sequence[AttentionLayer], dtype: str, threads: int) -> None:
        self._kinds = tuple(dict.fromkeys(layers))
        self._dtype, self._threads = dtype, threads
        self._num_pages = 0
        self._backend: NativeBackend | None = None
        self._table: tuple[tuple[int, ...], SpanTable] | None = None

    @staticmethod
    def takes(layers: Sequence[AttentionLayer], dtype: str, device: torch.device) -> bool:
        """Whether the kernels are made for these shapes and this device."""
        return BackendChoice(tuple(layers), dtype, device).is_native

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        lengths: Sequence[int],
        layer: AttentionLayer,
    ) -> torch.Tensor:
        """q (T, H, D), k (T, K, D), v (T, K, Dv) with T = sum(lengths) -> (T, H, Dv)."""
        table = self._lay_out(tuple(lengths))
        kind = self._kinds.index(layer)
        return self._make_room(len(table.pages)).append_attend(kind, table, q, k, v)[0]

    def _lay_out(self, lengths: tuple[int, ...]) -> SpanTable:
        """One prompt after the other; the same for every layer of a step."""
        if self._table is None or self._table[0] != lengths:
            counts = [-(-length // PAGE_TOKENS) for length in lengths]
            table = SpanTable(
                starts=torch.zeros(len(lengths), dtype=torch.int32),
                lengths=torch.tensor(lengths, dtype=torch.int32),
                pages=torch.arange(sum(counts), dtype=torch.int32),
                offsets=torch.tensor([0, *counts]).cumsum(0).to(torch.int32),
                num_rows=sum(lengths),
            )
            self._table = (lengths, table)
        return self._table[1]

    def _make_room(self, num_pages: int) -> NativeBackend:
        if self._backend is None or num_pages > self._num_pages:
            self._num_pages = max(num_pages, 2 * self._num_pages)
            self._backend = None  # the old memory goes before the new comes
            self._backend = NativeBackend(
                self._kinds,
                self._num_pages,
                PAGE_TOKENS,
                self._dtype,
                self._threads,
                on_torch_threads=True,
            )
        return self._backend
