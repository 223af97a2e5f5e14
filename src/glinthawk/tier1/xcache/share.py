"""How much of the context is X, and how much memory that takes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from glinthawk.core.errors import UsageError
from glinthawk.core.pages import Pages
from glinthawk.core.spec import ModelSpec
from glinthawk.core.units import format_size
from glinthawk.tier1.xcache.rebuild import Rebuild
from glinthawk.tier1.xcache.store import XCache

__all__ = ["XShare"]


@dataclass(frozen=True, slots=True)
class XShare:
    """What part of the context is X at a home: ``alpha`` of every sequence, in at most ``memory``
    bytes; None is as much as ``alpha`` takes when the workers are full."""

    alpha: float
    rebuild: Rebuild
    memory: int | None = None

    def count_pages(self, worker_pages: int, page_tokens: int) -> int:
        """Beside as many at the workers. Raises UsageError when memory is too small."""
        wanted = max(1, round(worker_pages * self.alpha / (1 - self.alpha)))
        page_bytes = page_tokens * self.rebuild.bytes_per_token
        most = _machine_bytes() if self.memory is None else self.memory
        if self.memory is None and wanted * page_bytes > most:
            raise UsageError(
                f"an X-cache of {self.alpha:g} of the context takes "
                f"{format_size(wanted * page_bytes)} beside such workers, and this machine has "
                f"{format_size(most)}: say with --xcache-memory how much it may take, or choose a "
                "smaller --xcache"
            )
        if most < page_bytes:
            raise UsageError(
                f"{format_size(most)} hold not one page of the X-cache "
                f"({format_size(page_bytes)}); give --xcache-memory at least that for each worker"
            )
        return min(wanted, most // page_bytes)

    def open(self, spec: ModelSpec, pages: Pages, device: torch.device) -> XCache:
        """The cache of X of the tokens in ``pages``, which whoever deals them takes care of."""
        return XCache(self.rebuild, spec, pages, device)

    def deal(self, worker_pages: Sequence[int]) -> list[float]:
        """The share of each worker, by its pages, and that of X."""
        total = sum(worker_pages)
        return [*((1 - self.alpha) * count / total for count in worker_pages), self.alpha]


def _machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
