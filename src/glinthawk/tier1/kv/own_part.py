"""What Tier 1 may itself keep of a home whose tokens are split among places. The X-cache does."""

from collections.abc import Sequence
from typing import Protocol

import torch

from glinthawk.core.pages import Pages
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.forward.cut import Arguments
from glinthawk.tier1.kv.token_sharding import Rows, Share

__all__ = ["OwnPart", "OwnShare", "PartialAnswer"]

#: Output (R, H, Dv) and log-sum-exps (R, H) of some rows, and which ones they are; None: all.
PartialAnswer = tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]


class OwnPart(Protocol):
    """Some of the tokens, and attention over them while workers attend to the others."""

    @property
    def peak_bytes(self) -> int:
        """Most bytes held at one time."""
        ...

    def begin(self, step: int, share: Share, rows: Rows) -> None:
        """Rows of a step are here."""
        ...

    def keep(
        self, step: int, layer: int, given: Arguments, extends: slice | None, prompts: slice | None
    ) -> None:
        """As ``Home.show``."""
        ...

    def ask(self, step: int, view: int, q: torch.Tensor) -> None:
        """Queries (T, H, D) of a layer whose rows see what ``view`` says."""
        ...

    def answer(self, step: int, layer: int) -> PartialAnswer | None:
        """To what was asked, if rows here see anything."""
        ...

    def end(self, step: int) -> None:
        """The step is over, or will not be finished."""
        ...


class OwnShare(Protocol):
    """How much of a home that is."""

    def count_pages(self, worker_pages: int, page_tokens: int) -> int:
        """Here, beside as many at the workers."""
        ...

    def deal(self, worker_pages: Sequence[int]) -> list[float]:
        """The share of each worker, by its pages, and the own one."""
        ...

    def open(self, spec: ModelSpec, pages: Pages, device: torch.device) -> OwnPart:
        """The part whose tokens are in ``pages``, which belong to whoever deals them."""
        ...
