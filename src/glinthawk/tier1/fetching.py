"""The baseline that attention at the workers is measured against: they keep the KV, Tier 1 attends.

In every layer the pages that a step's rows see cross the link, as in FlexGen (arXiv 2303.06865).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from glinthawk.core.batch import Span
from glinthawk.core.errors import WireError
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.homes import Reply, list_columns, list_forks
from glinthawk.tier1.links import Link
from glinthawk.wire.channel import ClientChannel
from glinthawk.wire.messages import Begin, Fetch, Fetched, Release, Spans, Store, Stored

__all__ = ["FetchHome", "PageAttention"]


class PageAttention(Protocol):
    """Attends over pages that a worker has sent; tier2's FetchedPages does."""

    def lay_out(self, starts: list[int], lengths: list[int]) -> Any:
        """Rows of a step: spans of ``lengths`` new tokens from positions ``starts``."""
        ...

    def attend(
        self, layer: int, rows: Any, pages: memoryview, places: memoryview, queries: torch.Tensor
    ) -> torch.Tensor:
        """queries (T, H, D) -> output (T, H, Dv). Raises WireError for pages that do not fit."""
        ...


@dataclass(slots=True)
class _Step:
    """What is attended here when its pages have come."""

    rows: Any
    #: Whose pages are to come, and its queries.
    layer: int | None = None
    queries: torch.Tensor | None = None
    #: Whether its prompts' last layer has been sent.
    stored: bool = False


class FetchHome:
    """KV on a worker, attended here, by ``attention``, as soon as its pages have come."""

    def __init__(
        self, id: int, channel: ClientChannel, spec: ModelSpec, attention: PageAttention
    ) -> None:
        self.id = id
        self.link = Link(id, channel, torch.device("cpu"))
        self._spec, self._attention = spec, attention
        self._steps: dict[int, _Step] = {}

    @property
    def links(self) -> tuple[Link]:
        return (self.link,)

    @property
    def num_pages(self) -> int:
        return self.link.num_pages

    @property
    def page_tokens(self) -> int:
        return self.link.page_tokens

    @property
    def most_sequences(self) -> int:
        return self.link.most_sequences

    def open(self, kv_dtype: str) -> None:
        self.link.open(self._spec.layers, self._spec.dtype, kv_dtype, fetches=True)

    def await_open(self, timeout_s: float) -> None:
        self.link.await_open(timeout_s)

    def has_opened(self) -> bool:
        return self.link.has_opened()

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        columns = list_columns(extends)
        self._steps[step] = _Step(self._attention.lay_out(*columns[1:]))
        prompt_columns = Spans(*list_columns(prompts))
        self.link.send(Begin(step, Spans(*columns), prompt_columns, list_forks(extends)))

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        running = self._steps[step]
        running.layer, running.queries = layer, q
        self.link.send_tensors(Fetch(step, layer), (k, v))

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        self._steps[step].stored = layer == len(self._spec.layers) - 1
        self.link.send_tensors(Store(step, layer), (k, v))
        return False

    def release(self, sequences: list[int]) -> None:
        self.link.send(Release(sequences))

    def abandon(self, step: int) -> None:
        self._steps.pop(step, None)
        self.link.abandon(step)

    def finish(self, step: int) -> None:
        """The step is over; its late replies, if any, are dropped."""
        self._steps.pop(step, None)

    def flush(self) -> bool:
        return self.link.flush()

    def receive(self) -> list[Reply]:
        """Attends over the pages that have arrived, so this takes its time."""
        replies = []
        for message, frames in self.link.receive():
            running = self._steps.get(message.step)
            if running is None:
                continue
            match message:
                case Fetched(step, layer, us):
                    self.link.expect(running.layer == layer, message)
                    output = self._attend(running, layer, frames)
                    replies.append(Reply(step, output, 1e-6 * us))
                case Stored(step):
                    self.link.expect(running.stored, message)
                    running.stored = False
                    replies.append(Reply(step, None))
                case _:
                    self.link.expect(False, message)
        return replies

    def close(self) -> None:
        self.link.close()

    def _attend(self, running: _Step, layer: int, frames: list[memoryview]) -> torch.Tensor:
        queries, running.queries, running.layer = running.queries, None, None
        assert queries is not None
        if len(frames) != 2:
            raise WireError(
                f"an answer of the wrong size: {len(frames)} frames, not 2", home=self.id
            )
        try:
            return self._attention.attend(layer, running.rows, frames[0], frames[1], queries)
        except WireError as error:
            raise WireError(str(error), home=self.id) from error
