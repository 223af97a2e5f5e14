"""The seam between KV pages and the arithmetic over them: a few calls."""

from collections.abc import Sequence
from typing import Protocol

import torch

from glinthawk.tier2.pages.page_table import SpanTable

__all__ = ["UNREADABLE", "Backend"]

#: Why a backend's pages cannot be read.
UNREADABLE = (
    "this worker cannot send its KV pages: only the native kernels' can be attended elsewhere (a "
    "CPU, and head sizes that are multiples of 8 up to 256); run with --kv-placement near"
)


class Backend(Protocol):
    """Owns the memory of all pages of all layers, in whatever layout it likes.

    What a step writes to is announced, ended and released, for backends that move pages about;
    others do nothing then.
    """

    @property
    def kernel(self) -> str:
        """What computes: another of this name comes to the same bits."""
        ...

    def begin(self, table: SpanTable) -> None:
        """A step will write the spans of ``table``, layer after layer. They may be ended in several
        tables. Raises WireError, and changes nothing, where there is no room for them."""
        return

    def end(self, table: SpanTable) -> None:
        """It has, or it will not."""
        return

    def release(self, pages: Sequence[int]) -> None:
        """Nobody needs what is on ``pages``."""
        return

    def append(
        self, layer: int, table: SpanTable, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Write the new tokens of every span. keys (T, K, D), values (T, K, Dv), rows in order of
        the table. Writing a position again replaces it."""
        ...

    def attend(
        self, layer: int, table: SpanTable, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of every new token over its sequence up to and with itself.

        queries (T, H, D) -> output (T, H, Dv) in the queries' dtype and log-sum-exp (T, H) float32.
        The tokens' own keys must have been appended before.
        """
        ...

    def append_attend(
        self,
        layer: int,
        table: SpanTable,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``append``, then ``attend``: a decode parcel in one call."""
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values in all layers."""
        ...

    def unit_bytes(self, layer: int) -> int:
        """Bytes of one page in a layer, as ``read`` packs it. Raises WorkerRefused where pages
        cannot be read."""
        ...

    def read(self, layer: int, table: SpanTable) -> torch.Tensor:
        """The pages of ``table`` in a layer, in its order and packed one after the other as
        ``NativeBackend.attend_packed`` takes them, uint8 (P, unit bytes). Raises WorkerRefused."""
        ...
