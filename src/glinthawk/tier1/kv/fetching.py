"""The baseline that attention at the workers is measured against: they keep the KV, Tier 1 attends.

In every layer the pages that a step's rows see cross the link, as in FlexGen (arXiv 2303.06865).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from glinthawk.core.config import LINK_WINDOW
from glinthawk.core.errors import WireError
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.kv.link import Answer, Link
from glinthawk.tier1.kv.remote import Awaited, OneWorkerHome
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import Fetch, Fetched, Spans

__all__ = ["FetchHome", "PageAttention"]


class PageAttention(Protocol):
    """Attends over pages that a worker has sent; tier2's FetchedPages does."""

    def lay_out(self, starts: list[int], lengths: list[int]) -> Any:
        """Rows of a step: spans of ``lengths`` new tokens from positions ``starts``."""
        ...

    def num_bytes(self, layer: int, rows: Any) -> int:
        """Most bytes of the pages that rows see in a layer."""
        ...

    def attend(
        self, layer: int, rows: Any, pages: memoryview, places: memoryview, queries: torch.Tensor
    ) -> torch.Tensor:
        """queries (T, H, D) -> output (T, H, Dv). Raises WireError for pages that do not fit."""
        ...


@dataclass(slots=True)
class _Rows(Awaited):
    """A step that is attended here when its pages have come."""

    rows: Any = None
    queries: torch.Tensor | None = None
    #: Bytes that were asked for and have not come.
    owed: int = 0


class FetchHome(OneWorkerHome[_Rows]):
    """Attended here, by ``attention``, when the pages have come: ``receive`` takes its time."""

    def __init__(
        self, id: int, channel: ClientChannel, spec: ModelSpec, attention: PageAttention
    ) -> None:
        super().__init__(id, Link(id, channel, torch.device("cpu")), spec)
        self._attention = attention

    @property
    def is_full(self) -> bool:
        """Answers are large, and under way as much as what is sent: so little is asked for."""
        owed = sum(running.owed for running in self._steps.values())
        return super().is_full or owed >= LINK_WINDOW

    def open(self, kv_dtype: str) -> None:
        self.link.open(self._spec.layers, self._spec.dtype, kv_dtype, fetches=True)

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        running = self._steps[step]
        running.layer, running.queries = layer, q
        running.owed = self._attention.num_bytes(layer, running.rows)
        self.link.send_tensors(Fetch(step, layer), (k, v))

    def _lay_out(self, extends: Spans) -> _Rows:
        return _Rows(rows=self._attention.lay_out(extends.starts, extends.lengths))

    def _is_answer(self, message: Answer) -> bool:
        return isinstance(message, Fetched)

    def _output(self, running: _Rows, layer: int, frames: list[memoryview]) -> torch.Tensor:
        self._check_frames(frames, 2)
        queries, running.queries, running.owed = running.queries, None, 0
        assert queries is not None
        try:
            return self._attention.attend(layer, running.rows, frames[0], frames[1], queries)
        except WireError as error:
            raise WireError(str(error), home=self.id) from error
