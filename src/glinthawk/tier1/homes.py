"""Where attention over KV happens, as Tier 1 sees it: a home keeps KV and answers attention.

``LocalHome`` is Tier 1's own memory, ``RemoteHome`` a worker; several workers may be one home, too
(``heads.py``, ``ranges.py``), and a worker's KV may be attended here (``fetching.py``). All take
the rows of a step once and then one parcel a layer.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from glinthawk.core.batch import Span
from glinthawk.tier1.links import Link

__all__ = [
    "Cache",
    "Home",
    "LocalHome",
    "Reply",
    "WorkerHome",
    "list_columns",
    "list_forks",
    "list_kernels",
]

#: (source, sequence, number of tokens)
_Fork = tuple[int, int, int]
#: sequences, starts, lengths
_Columns = tuple[list[int], list[int], list[int]]


class Reply(NamedTuple):
    """What came back for a step: attention output, or (None) word that its prompts are stored."""

    step: int
    output: torch.Tensor | None
    #: That the home computed for it.
    seconds: float = 0.0


class Home(Protocol):
    """A place that keeps KV."""

    id: int

    @property
    def num_pages(self) -> int: ...

    @property
    def page_tokens(self) -> int: ...

    @property
    def most_sequences(self) -> int:
        """That may have KV here at one time."""
        ...

    @property
    def kernel(self) -> str:
        """What attends here: homes that name the same one come to the same bits."""
        ...

    @property
    def links(self) -> Sequence[Link]:
        """The workers that it consists of; none, if it answers at once."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether rows shall wait before more is sent here, or asked for: as many bytes are under
        way as may be. When that has changed, ``receive`` has something to take in."""
        ...

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        """Announce a step's rows here."""
        ...

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor | None:
        """Keep k, v of the extends and attend; None when the output comes as a Reply."""
        ...

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        """Keep k, v of the prompts; False when the last layer's is confirmed by a Reply."""
        ...

    def release(self, sequences: list[int]) -> None:
        """Forget sequences."""
        ...

    def finish(self, step: int) -> None:
        """The step is over."""
        ...

    def abandon(self, step: int) -> None:
        """The step will not be finished."""
        ...

    def flush(self) -> bool:
        """Send the parcels whose bytes have arrived, as far as there is room; whether others still
        wait for their bytes."""
        ...

    def receive(self) -> list[Reply]:
        """What has arrived. Raises errors with the home's number: WorkerLost when a worker is gone,
        WireError when it answers what nobody asked."""
        ...


class WorkerHome(Home, Protocol):
    """A home at workers."""

    def open(self, kv_dtype: str) -> None:
        """Ask for sessions; ``await_open`` takes the answers."""
        ...

    def await_open(self, timeout_s: float) -> None:
        """Raises WorkerRefused, or WorkerLost when no answer comes in time; then it may be called
        again."""
        ...

    def has_opened(self) -> bool:
        """Whether the sessions stand by now. Raises as ``await_open``, and never waits."""
        ...

    def close(self) -> None:
        """End the sessions."""
        ...


class Cache(Protocol):
    """What LocalHome needs of a KV cache; tier2's KVCache is one."""

    pages: Any
    most_sequences: int

    @property
    def kernel(self) -> str: ...

    @property
    def peak_bytes(self) -> int: ...

    def begin(self, forks: Iterable[_Fork], *groups: _Columns) -> list[Any]: ...

    def store(self, layer: int, table: Any, k: torch.Tensor, v: torch.Tensor) -> None: ...

    def attend(
        self, layer: int, table: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor: ...

    def release(self, sequences: list[int]) -> None: ...

    def clear(self) -> None: ...


class LocalHome:
    """KV in Tier 1's own memory; answers at once."""

    links = ()
    is_full = False

    def __init__(self, id: int, cache: Cache) -> None:
        self.id = id
        self.num_pages: int = cache.pages.num_pages
        self.page_tokens: int = cache.pages.page_tokens
        self.most_sequences: int = cache.most_sequences
        self._cache = cache
        self._steps: dict[int, tuple[Any, Any]] = {}

    @property
    def kernel(self) -> str:
        return self._cache.kernel

    @property
    def peak_bytes(self) -> int:
        """Most bytes of KV held at one time."""
        return self._cache.peak_bytes

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        tables = self._cache.begin(
            list_forks(extends), list_columns(extends), list_columns(prompts)
        )
        self._steps[step] = (tables[0], tables[1])

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        return self._cache.attend(layer, self._steps[step][0], q, k, v)

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        self._cache.store(layer, self._steps[step][1], k, v)
        return True

    def release(self, sequences: list[int]) -> None:
        self._cache.release(sequences)

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()
        self._steps.clear()

    def finish(self, step: int) -> None:
        self._steps.pop(step, None)

    def abandon(self, step: int) -> None:
        self.finish(step)

    def flush(self) -> bool:
        return False

    def receive(self) -> list[Reply]:
        return []


def list_kernels(links: Iterable[Link]) -> str:
    """The ``kernel`` of a home at these workers."""
    return " and ".join(sorted({link.kernel for link in links}))


def list_forks(spans: Sequence[Span]) -> list[_Fork]:
    """Which of ``spans`` begin with another sequence's tokens."""
    return [
        (span.source, span.sequence.id, span.start) for span in spans if span.source is not None
    ]


def list_columns(spans: Sequence[Span]) -> _Columns:
    """``spans`` as the wire has them."""
    return (
        [span.sequence.id for span in spans],
        [span.start for span in spans],
        [span.length for span in spans],
    )
