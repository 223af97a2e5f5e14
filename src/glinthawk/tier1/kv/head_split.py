"""Several workers as one home: each keeps an equal share of the KV heads of all tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from glinthawk.core.batch import Span
from glinthawk.core.spec import ModelSpec, share_heads
from glinthawk.tier1.device.staging import Staging
from glinthawk.tier1.kv.home import Reply, WorkerHome
from glinthawk.tier1.kv.link import Link
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.wire.client_channel import ClientChannel

__all__ = ["HeadSplitHome"]


@dataclass(slots=True)
class _Step:
    """What has come of a step: output of the current layer by worker, and words of storage."""

    outputs: dict[int, Reply] = field(default_factory=dict)
    num_stored: int = 0


class HeadSplitHome(WorkerHome):
    """Heads attend independently of one another, so each worker answers for its own, and the
    answers are put side by side (Lamina, arXiv 2405.01814). All hold the same tokens."""

    def __init__(
        self,
        id: int,
        channels: Sequence[ClientChannel],
        spec: ModelSpec,
        device: torch.device,
        staging: Callable[[], Staging | None] = lambda: None,
    ) -> None:
        """Raises UsageError when the KV heads cannot be shared equally."""
        self.id = id
        shares = [share_heads(spec.layers, part, len(channels)) for part in range(len(channels))]
        self._parts = [
            RemoteHome(id, channel, replace(spec, layers=share), device, staging())
            for channel, share in zip(channels, shares, strict=True)
        ]
        self._steps: dict[int, _Step] = {}

    @property
    def links(self) -> list[Link]:
        return [part.link for part in self._parts]

    def open(self, kv_dtype: str) -> None:
        for part in self._parts:
            part.open(kv_dtype)

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        self._steps[step] = _Step()
        for part in self._parts:
            part.begin(step, extends, prompts)

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        shares = [self._share(rows) for rows in (q, k, v)]
        for part, heads in zip(self._parts, zip(*shares, strict=True), strict=True):
            part.attend(step, layer, *heads)

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        shares = [self._share(rows) for rows in (k, v)]
        for part, heads in zip(self._parts, zip(*shares, strict=True), strict=True):
            part.store(step, layer, *heads)
        return False

    def release(self, sequences: list[int]) -> None:
        for part in self._parts:
            part.release(sequences)

    def finish(self, step: int) -> None:
        self._steps.pop(step, None)
        for part in self._parts:
            part.finish(step)

    def abandon(self, step: int) -> None:
        self._steps.pop(step, None)
        for part in self._parts:
            part.abandon(step)

    def receive(self) -> list[Reply]:
        """What all workers have answered; parts of an answer are kept until the rest is there."""
        replies = []
        for number, part in enumerate(self._parts):
            for reply in part.receive():
                whole = self._gather(number, reply)
                if whole is not None:
                    replies.append(whole)
        return replies

    def _share(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(T, H, D) -> for each worker its heads."""
        return rows.chunk(len(self._parts), dim=1)

    def _gather(self, number: int, reply: Reply) -> Reply | None:
        """A whole reply, if this one was all that was missing."""
        step = self._steps[reply.step]
        if reply.output is None:
            step.num_stored += 1
            return reply if step.num_stored == len(self._parts) else None
        step.outputs[number] = reply
        if len(step.outputs) < len(self._parts):
            return None
        parts = [step.outputs[number] for number in range(len(self._parts))]
        step.outputs = {}
        output = torch.cat([part.output for part in parts if part.output is not None], dim=1)
        return Reply(reply.step, output, max(part.seconds for part in parts))
