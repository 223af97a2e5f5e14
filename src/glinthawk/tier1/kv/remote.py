"""A home at one worker, to whom one link leads."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from glinthawk.core.batch import Span
from glinthawk.core.errors import WireError
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.device.staging import Staging
from glinthawk.tier1.kv.home import Reply, WorkerHome, list_columns, list_forks
from glinthawk.tier1.kv.link import Answer, Link
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import Attend, Attended, Begin, ReleaseKV, Spans, Store, Stored

__all__ = ["Awaited", "OneWorkerHome", "RemoteHome"]


@dataclass(slots=True)
class Awaited:
    """What a worker may answer to a step in progress."""

    #: Whose attention is to come.
    layer: int | None = None
    #: Whether its prompts' last layer has been sent.
    stored: bool = False


_Step = TypeVar("_Step", bound=Awaited)


class OneWorkerHome(WorkerHome, Generic[_Step]):
    """KV on a worker, whose answers are collected by ``receive``; what is asked of it for rows that
    attend, and what is made of the answer, differs."""

    def __init__(self, id: int, link: Link, spec: ModelSpec) -> None:
        self.id, self.link = id, link
        self._spec = spec
        self._steps: dict[int, _Step] = {}

    @property
    def links(self) -> tuple[Link]:
        return (self.link,)

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        both = [Spans(*list_columns(spans)) for spans in (extends, prompts)]
        self._steps[step] = self._lay_out(both[0])
        self.link.send(Begin(step, both[0], both[1], list_forks(extends)))

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        self._steps[step].stored = layer == len(self._spec.layers) - 1
        self.link.send_tensors(Store(step, layer), (k, v))
        return False

    def release(self, sequences: list[int]) -> None:
        self.link.send(ReleaseKV(sequences))

    def abandon(self, step: int) -> None:
        self._steps.pop(step, None)
        self.link.abandon(step)

    def finish(self, step: int) -> None:
        """The step is over; its late replies, if any, are dropped."""
        self._steps.pop(step, None)

    def receive(self) -> list[Reply]:
        replies = []
        for message, frames in self.link.receive():
            running = self._steps.get(message.step)
            if running is None:
                continue
            if isinstance(message, Stored):
                self.link.expect(running.stored, message)
                running.stored = False
                replies.append(Reply(message.step, None))
            else:
                is_awaited = message.layer == running.layer
                self.link.expect(is_awaited and self._is_answer(message), message)
                running.layer = None
                output = self._output(running, message.layer, frames)
                replies.append(Reply(message.step, output, 1e-6 * message.us))
        return replies

    def _check_frames(self, frames: list[memoryview], expected: int) -> None:
        if len(frames) != expected:
            raise WireError(
                f"an answer of the wrong size: {len(frames)} frames, not {expected}", home=self.id
            )

    @abstractmethod
    def _lay_out(self, extends: Spans) -> _Step:
        """What is to be known of a step until it is over."""

    @abstractmethod
    def _is_answer(self, message: Answer) -> bool:
        """Whether it is of the kind that is asked for."""

    @abstractmethod
    def _output(self, running: _Step, layer: int, frames: list[memoryview]) -> torch.Tensor:
        """Attention output (T, H, Dv). Raises WireError for an answer that does not fit."""


@dataclass(slots=True)
class _Rows(Awaited):
    """A step that the worker attends to."""

    num_rows: int = 0


class RemoteHome(OneWorkerHome[_Rows]):
    """The worker attends."""

    def __init__(
        self,
        id: int,
        channel: ClientChannel,
        spec: ModelSpec,
        device: torch.device,
        staging: Staging | None = None,
    ) -> None:
        super().__init__(id, Link(id, channel, device, staging), spec)
        self._dtype: torch.dtype = getattr(torch, spec.dtype)

    def open(self, kv_dtype: str) -> None:
        self.link.open(self._spec.layers, self._spec.dtype, kv_dtype)

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        self._steps[step].layer = layer
        self.link.send_tensors(Attend(step, layer), (q, k, v))

    def _lay_out(self, extends: Spans) -> _Rows:
        return _Rows(num_rows=sum(extends.lengths))

    def _is_answer(self, message: Answer) -> bool:
        return isinstance(message, Attended)

    def _output(self, running: _Rows, layer: int, frames: list[memoryview]) -> torch.Tensor:
        self._check_frames(frames, 1)
        spec = self._spec.layers[layer]
        shape = (running.num_rows, spec.num_heads, spec.value_dim)
        return self.link.take_in(frames[0], self._dtype, shape)
