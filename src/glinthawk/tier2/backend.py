"""The seam between KV pages and the arithmetic over them: a few calls."""

from collections.abc import Sequence
from typing import Protocol

import torch

from glinthawk.tier2.pages import SpanTable

__all__ = ["Backend"]


class Backend(Protocol):
    """Owns the memory of all pages of all layers, in whatever layout it likes.

    What a step writes to is announced, ended and released, for backends that move pages about;
    others do nothing then.
    """

    def begin(self, table: SpanTable) -> None:
        """A step will write the spans of ``table``, layer after layer."""
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
