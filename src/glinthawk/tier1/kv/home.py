"""Where attention over KV happens, as Tier 1 sees it: a home keeps KV and answers attention.

``LocalHome`` is Tier 1's own memory, ``RemoteHome`` a worker; several workers may be one home, too
(``head_split.py``, ``token_split.py``), and a worker's KV may be attended here (``fetching.py``).
All take the rows of a step once and then one parcel a layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from glinthawk.core.batch import Span
from glinthawk.tier1.forward.cut import Arguments
from glinthawk.tier1.kv.link import Link

__all__ = [
    "Cache",
    "Home",
    "LocalHome",
    "Reply",
    "WorkerHome",
    "list_columns",
    "list_forks",
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


class Home(ABC):
    """A place that keeps KV. What is given here is right for one that answers at once."""

    id: int

    @property
    @abstractmethod
    def num_pages(self) -> int: ...

    @property
    @abstractmethod
    def page_tokens(self) -> int: ...

    @property
    @abstractmethod
    def most_sequences(self) -> int:
        """That may have KV here at one time."""

    @property
    @abstractmethod
    def kernel(self) -> str:
        """What attends here: homes that name the same one come to the same bits."""

    @property
    def links(self) -> Sequence[Link]:
        """The workers that it consists of; none, if it answers at once."""
        return ()

    @property
    def is_full(self) -> bool:
        """Whether rows shall wait before more is sent here, or asked for: as many bytes are under
        way as may be. When that has changed, ``receive`` has something to take in."""
        return False

    @property
    def is_leaving(self) -> bool:
        """Whether one of its workers wants to go."""
        return any(link.is_leaving for link in self.links)

    @property
    def kv_bytes_peak(self) -> int:
        """Most bytes of K and V at one time in Tier 1's own memory."""
        return 0

    @property
    def xcache_bytes_peak(self) -> int:
        """Most bytes of X at one time in Tier 1's own memory."""
        return 0

    @abstractmethod
    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        """Announce a step's rows here."""

    def show(  # noqa: B027 - most have no use for it
        self, step: int, layer: int, given: Arguments, extends: slice | None, prompts: slice | None
    ) -> None:
        """What a layer's attention was ``given`` for a batch, of which these are the rows here; for
        whoever keeps that in place of k and v. Comes before ``attend``."""

    @abstractmethod
    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor | None:
        """Keep k, v of the extends and attend; None when the output comes as a Reply, or by
        ``attend_here``."""

    def attend_here(self, step: int) -> torch.Tensor | None:
        """Do Tier 1's own part of the layer, while workers do theirs; (T, H, Dv) if none of them
        has a part, else the output comes as a Reply."""
        return None

    @abstractmethod
    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        """Keep k, v of the prompts; False when the last layer's is confirmed by a Reply."""

    @abstractmethod
    def release(self, sequences: list[int]) -> None:
        """Forget sequences."""

    @abstractmethod
    def finish(self, step: int) -> None:
        """The step is over."""

    def abandon(self, step: int) -> None:
        """The step will not be finished."""
        self.finish(step)

    def flush(self) -> bool:
        """Send the parcels whose bytes have arrived, as far as there is room; whether others still
        wait for their bytes."""
        return False

    def receive(self) -> list[Reply]:
        """What has arrived. Raises errors with the home's number: WorkerLost when a worker is gone,
        WireError when it answers what nobody asked."""
        return []

    def renew(self) -> bool:
        """Forget everything and go on as if new; False for one that has to be opened again."""
        return False


class WorkerHome(Home):
    """A home at workers, the sessions at which are to be opened. What is given here is right where
    every worker has all sequences."""

    @property
    def num_pages(self) -> int:
        return min(link.num_pages for link in self.links)

    @property
    def page_tokens(self) -> int:
        return self.links[0].page_tokens

    @property
    def most_sequences(self) -> int:
        return min(link.most_sequences for link in self.links)

    @property
    def kernel(self) -> str:
        return " and ".join(sorted({link.kernel for link in self.links}))

    @property
    def is_full(self) -> bool:
        return any(link.is_full for link in self.links)

    @abstractmethod
    def open(self, kv_dtype: str) -> None:
        """Ask for sessions; ``await_open`` takes the answers."""

    def await_open(self, timeout_s: float) -> None:
        """Raises WorkerRefused, or WorkerLost when no answer comes in time; then it may be called
        again."""
        for link in self.links:
            link.await_open(timeout_s)

    def has_opened(self) -> bool:
        """Whether the sessions stand by now. Raises as ``await_open``, and never waits."""
        return all([link.has_opened() for link in self.links])

    def flush(self) -> bool:
        return any([link.flush() for link in self.links])

    def close(self) -> None:
        """End the sessions."""
        for link in self.links:
            link.close()


class Cache(Protocol):
    """What LocalHome needs of a KV cache; tier2's KVCache is one."""

    pages: Any
    backend: Any
    most_sequences: int

    @property
    def kernel(self) -> str: ...

    @property
    def peak_bytes(self) -> int: ...

    def begin(self, forks: Iterable[_Fork], *groups: _Columns) -> list[Any]: ...

    def release(self, sequences: list[int]) -> None: ...

    def clear(self) -> None: ...


class LocalHome(Home):
    """KV in Tier 1's own memory; answers at once."""

    def __init__(self, id: int, cache: Cache) -> None:
        self.id = id
        self._cache = cache
        self._steps: dict[int, tuple[Any, Any]] = {}

    @property
    def num_pages(self) -> int:
        return int(self._cache.pages.num_pages)

    @property
    def page_tokens(self) -> int:
        return int(self._cache.pages.page_tokens)

    @property
    def most_sequences(self) -> int:
        return self._cache.most_sequences

    @property
    def kernel(self) -> str:
        return self._cache.kernel

    @property
    def kv_bytes_peak(self) -> int:
        return self._cache.peak_bytes

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        tables = self._cache.begin(
            list_forks(extends), list_columns(extends), list_columns(prompts)
        )
        self._steps[step] = (tables[0], tables[1])

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        output: torch.Tensor
        output, _ = self._cache.backend.append_attend(layer, self._steps[step][0], q, k, v)
        return output

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        self._cache.backend.append(layer, self._steps[step][1], k, v)
        return True

    def release(self, sequences: list[int]) -> None:
        self._cache.release(sequences)

    def finish(self, step: int) -> None:
        self._steps.pop(step, None)

    def renew(self) -> bool:
        self._cache.clear()
        self._steps.clear()
        return True


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
