"""Where attention over KV happens, as Tier 1 sees it: a home keeps KV and answers attention.

``LocalHome`` is Tier 1's own memory; ``RemoteHome`` a worker behind a channel. Both take the rows
of a step once and then one parcel a layer.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from glinthawk.core.batch import Span
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WireError, WorkerLost, WorkerRefused
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.staging import Outbox, Staging, make_staging
from glinthawk.wire.channel import ClientChannel
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Ask,
    Attend,
    Attended,
    Begin,
    Bye,
    Fault,
    FromTier1,
    Message,
    Open,
    Opened,
    Ping,
    Release,
    Spans,
    Stats,
    Store,
    Stored,
)

__all__ = ["Cache", "Home", "LocalHome", "RemoteHome", "Reply", "Traffic"]

#: Of a worker's fault.
_LONGEST_WORDS = 1000

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
    num_pages: int
    page_tokens: int

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


class Cache(Protocol):
    """What LocalHome needs of a KV cache; tier2's KVCache is one."""

    pages: Any

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

    def __init__(self, id: int, cache: Cache) -> None:
        self.id = id
        self.num_pages: int = cache.pages.num_pages
        self.page_tokens: int = cache.pages.page_tokens
        self._cache = cache
        self._steps: dict[int, tuple[Any, Any]] = {}

    @property
    def peak_bytes(self) -> int:
        """Most bytes of KV held at one time."""
        return self._cache.peak_bytes

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        tables = self._cache.begin(_forks(extends), _columns(extends), _columns(prompts))
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


class Traffic:
    """Bytes that crossed one link, header frames included.

    Prompts behind a shared prefix are attended at home as decode rows are, and count with them.
    """

    def __init__(self) -> None:
        self.decode_bytes_out = 0
        self.decode_bytes_back = 0
        self.prefill_bytes = 0

    def count(self, message: FromTier1, num_bytes: int) -> None:
        """A message that left; those that belong to no step are not counted."""
        match message:
            case Store():
                self.prefill_bytes += num_bytes
            case Begin(extends=extends) if not extends.sequences:
                self.prefill_bytes += num_bytes
            case Begin() | Attend():
                self.decode_bytes_out += num_bytes


@dataclass(slots=True)
class _Awaited:
    """What a worker may answer to a step in progress."""

    #: That it attends.
    num_rows: int
    #: Whose output is to come.
    layer: int | None = None
    #: Whether its prompts' last layer has been sent.
    stored: bool = False


class RemoteHome:
    """KV on a worker; parcels leave as soon as their bytes are in the host's memory, and answers
    are collected by ``receive``."""

    def __init__(
        self,
        id: int,
        channel: ClientChannel,
        spec: ModelSpec,
        device: torch.device,
        staging: Staging | None = None,
    ) -> None:
        self.id = id
        self.channel = channel
        self.traffic = Traffic()
        self.stats: Stats | None = None
        self.num_pages = self.page_tokens = self.threads = 0
        self._layers = spec.layers
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self._steps: dict[int, _Awaited] = {}
        self._staging = staging or make_staging(device)
        self._outbox = Outbox()

    def open(self, spec: ModelSpec, kv_dtype: str) -> None:
        """Ask for a session; ``await_open`` takes the answer."""
        self._send(Open(VERSION, list(spec.layers), spec.dtype, kv_dtype))

    def await_open(self, timeout_s: float) -> None:
        """Raises WorkerRefused, or WorkerLost when no answer comes in time."""
        self._take_opened(self._await(Opened, timeout_s))

    def has_opened(self) -> bool:
        """Whether the session stands by now. Raises WorkerRefused or WorkerLost."""
        received = self._next()
        if received is None:
            return False
        if not isinstance(received[0], Opened):
            raise WireError(f"unexpected answer {received[0]}", home=self.id)
        self._take_opened(received[0])
        return True

    def _take_opened(self, message: Opened) -> None:
        if message.page_tokens != PAGE_TOKENS:
            raise WireError(
                f"worker {self.channel.address.endpoint} has pages of {message.page_tokens} "
                f"tokens, not {PAGE_TOKENS}; install the same glinthawk on both machines",
                home=self.id,
            )
        self.num_pages, self.page_tokens = message.num_pages, message.page_tokens
        self.threads = message.threads

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        both = [Spans(*_columns(spans)) for spans in (extends, prompts)]
        self._steps[step] = _Awaited(sum(span.length for span in extends))
        self._send(Begin(step, both[0], both[1], _forks(extends)))

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        self._steps[step].layer = layer
        self._send_tensors(Attend(step, layer), (q, k, v))

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        self._steps[step].stored = layer == len(self._layers) - 1
        self._send_tensors(Store(step, layer), (k, v))
        return False

    def release(self, sequences: list[int]) -> None:
        self._send(Release(sequences))

    def abandon(self, step: int) -> None:
        self._steps.pop(step, None)
        self._outbox.drop(step)
        self._send(Abandon(step))

    def finish(self, step: int) -> None:
        """The step is over; its late replies, if any, are dropped."""
        self._steps.pop(step, None)

    def receive(self) -> list[Reply]:
        """Everything that has arrived. Raises WorkerLost when the worker is gone, WireError when it
        answers what nobody asked."""
        replies: list[Reply] = []
        while (received := self._next()) is not None:
            message, frames, num_bytes = received
            match message:
                case Attended(step, layer, us):
                    self.traffic.decode_bytes_back += num_bytes
                    if step in self._steps:
                        replies.append(Reply(step, self._output(step, layer, frames), 1e-6 * us))
                case Stored(step):
                    self.traffic.prefill_bytes += num_bytes
                    if step in self._steps:
                        self._expect(self._steps[step].stored, message)
                        self._steps[step].stored = False
                        replies.append(Reply(step, None))
                case Stats():
                    self.stats = message
        return replies

    def flush(self) -> bool:
        """Send the parcels whose bytes have arrived; whether others still wait for theirs."""
        return self._outbox.flush()

    def ask(self, timeout_s: float) -> Stats:
        """The worker's own count of its work."""
        self._send(Ask())
        self._outbox.flush(wait=True)
        stats: Stats = self._await(Stats, timeout_s)
        return stats

    def close(self) -> None:
        """End the session."""
        self._outbox.clear()
        self._send(Bye())
        self.channel.socket.linger = 1_000
        self.channel.close()

    def _send(self, message: FromTier1) -> None:
        """Send, behind the parcels that still wait for their bytes."""
        self._outbox.put(partial(self._deliver, message))

    def _send_tensors(self, message: Attend | Store, tensors: Sequence[torch.Tensor]) -> None:
        frames, copied = self._staging.copy_out(tensors)
        self._outbox.put(partial(self._deliver, message, frames), copied, message.step)

    def _deliver(self, message: FromTier1, frames: Sequence[memoryview] = ()) -> None:
        """A message that finds no connection is dropped: ``receive`` tells that the worker is gone,
        at the one place where that is handled."""
        with contextlib.suppress(WorkerLost):
            self.traffic.count(message, self.channel.send(message, frames))

    def _next(self) -> tuple[Message, list[memoryview], int] | None:
        try:
            received = self.channel.receive()
        except WorkerLost as error:
            raise WorkerLost(str(error), home=self.id) from error
        if received is not None and isinstance(received[0], Fault):
            kind = WorkerRefused if received[0].refused else WireError
            endpoint = self.channel.address.endpoint
            raise kind(f"worker {endpoint}: {_printable(received[0].text)}", home=self.id)
        return received

    def _await(self, kind: Any, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            received = self._next()
            if received is None:
                self.channel.wait(left)
            elif isinstance(received[0], kind):
                return received[0]
            elif not isinstance(received[0], Ping | Attended | Stored):
                raise WireError(f"unexpected answer {received[0]}", home=self.id)
        raise WorkerLost(
            f"no answer from {self.channel.address.endpoint} in {timeout_s:g} s", home=self.id
        )

    def _expect(self, holds: bool, message: Message) -> None:
        if not holds:
            raise WireError(f"the worker answers what nobody asked: {message}", home=self.id)

    def _output(self, step: int, layer: int, frames: list[memoryview]) -> torch.Tensor:
        awaited = self._steps[step]
        self._expect(awaited.layer == layer, Attended(step, layer, 0))
        awaited.layer = None
        spec = self._layers[layer]
        shape = (awaited.num_rows, spec.num_heads, spec.value_dim)
        expected = shape[0] * shape[1] * shape[2] * self._dtype.itemsize
        if len(frames) != 1 or frames[0].nbytes != expected:
            raise WireError(f"an answer of layer {layer} has the wrong size", home=self.id)
        return self._staging.copy_in(frames[0], self._dtype, shape)


def _printable(text: str) -> str:
    """What another machine says, fit for a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_WORDS])


def _forks(spans: Sequence[Span]) -> list[_Fork]:
    return [
        (span.source, span.sequence.id, span.start) for span in spans if span.source is not None
    ]


def _columns(spans: Sequence[Span]) -> _Columns:
    return (
        [span.sequence.id for span in spans],
        [span.start for span in spans],
        [span.length for span in spans],
    )
