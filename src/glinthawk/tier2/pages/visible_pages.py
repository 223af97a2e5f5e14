"""Which pages the rows of a step see in a layer: what is sent to who attends elsewhere."""

from typing import NamedTuple

import torch

from glinthawk.tier2.pages.page_table import SpanTable, cut_to_window, see_all

__all__ = ["Sight", "find_sight"]


class Sight(NamedTuple):
    """Pages that are shared, by sequences with a common prefix, are there once."""

    #: One row that sees them all.
    table: SpanTable
    #: Which of them each page of each row is, rows in order; int32 (P,).
    places: torch.Tensor

    @property
    def num_pages(self) -> int:
        return len(self.table.pages)


def find_sight(table: SpanTable, window: int | None, page_tokens: int) -> Sight:
    """What the rows of ``table`` see in layers with this window.

    >>> # rows in pages 9, 2 and in pages 9, 7: pages 2, 7, 9 and places 2, 0, 2, 1
    """
    seen = cut_to_window(table, window, page_tokens)
    pages, places = seen.pages.unique(return_inverse=True)
    return Sight(see_all(pages, page_tokens), places.to(torch.int32))
