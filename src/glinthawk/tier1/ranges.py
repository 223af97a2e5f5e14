"""Several workers as one home: each keeps some tokens of a sequence, which may outgrow them all.

A row's query goes to every worker that holds tokens that it sees. Each answers attention over its
own ones with their log-sum-exp, by which the answers are merged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from glinthawk.attention.reference import merge_partials
from glinthawk.core.batch import Span
from glinthawk.core.errors import WireError
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.homes import Reply
from glinthawk.tier1.links import Link
from glinthawk.tier1.shares import Share, share_step
from glinthawk.tier1.staging import Staging, upload
from glinthawk.tier1.stripes import Stripes
from glinthawk.wire.channel import ClientChannel
from glinthawk.wire.messages import Attend, Attended, BeginPart, Release, Store, Stored

__all__ = ["STRIPE_PAGES", "RangeSplitHome"]

#: Pages in a row at one worker. A sequence of less than these 512 tokens has little to gain from
#: being read in two places, and its queries would travel twice.
STRIPE_PAGES = 16


@dataclass(slots=True)
class _Rows:
    """Rows of a home's, as the worker sees them that has some of them. None: all of them."""

    extends: torch.Tensor | None
    prompts: torch.Tensor | None
    views: list[torch.Tensor | None]


@dataclass(slots=True)
class _Part:
    """A worker's part of a step, and what it answered in the current layer."""

    share: Share
    rows: _Rows
    answer: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass(slots=True)
class _Step:
    num_rows: int
    parts: dict[int, _Part]
    #: Workers that have not answered for the current layer, and not confirmed the prompts.
    awaited: set[int] = field(default_factory=set)
    unstored: set[int] = field(default_factory=set)
    #: The current layer, and the last one whose prompts have been sent.
    layer: int = -1
    stored_layer: int = -1
    seconds: float = 0.0


class RangeSplitHome:
    """Windows become ranges that the workers are told; sinks are added by the merge."""

    def __init__(
        self,
        id: int,
        channels: Sequence[ClientChannel],
        spec: ModelSpec,
        device: torch.device,
        staging: Callable[[], Staging | None] = lambda: None,
        stripe_pages: int = STRIPE_PAGES,
    ) -> None:
        self.id = id
        self.links = [Link(id, channel, device, staging()) for channel in channels]
        self._spec = spec
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self._device = device
        self._windows = list(dict.fromkeys(layer.window for layer in spec.layers))
        self._view_of = [self._windows.index(layer.window) for layer in spec.layers]
        self._sinks = [
            None if layer.sinks is None else torch.tensor(layer.sinks, device=device)
            for layer in spec.layers
        ]
        self._stripe_pages = stripe_pages
        self._stripes: Stripes
        self._steps: dict[int, _Step] = {}

    @property
    def num_pages(self) -> int:
        return sum(link.num_pages for link in self.links)

    @property
    def page_tokens(self) -> int:
        return self.links[0].page_tokens

    @property
    def most_sequences(self) -> int:
        return sum(link.most_sequences for link in self.links)

    def open(self, kv_dtype: str) -> None:
        layers = [replace(layer, window=None, sinks=None) for layer in self._spec.layers]
        for link in self.links:
            link.open(layers, self._spec.dtype, kv_dtype, self._view_of)

    def await_open(self, timeout_s: float) -> None:
        for link in self.links:
            link.await_open(timeout_s)
        self._deal()

    def has_opened(self) -> bool:
        have_opened = all([link.has_opened() for link in self.links])
        if have_opened:
            self._deal()
        return have_opened

    def _deal(self) -> None:
        counts = [link.num_pages for link in self.links]
        self._stripes = Stripes(counts, self.page_tokens, self._stripe_pages)

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        """Raises WireError when the pages of all workers together run out."""
        self._reserve(extends, prompts)
        shares = share_step(self._stripes, self._windows, extends, prompts)
        parts = {}
        for number, share in enumerate(shares):
            if not share.is_empty:
                message = BeginPart(
                    step, share.extends, share.prompts, share.forks, share.views_to_send
                )
                self.links[number].send(message)
                parts[number] = _Part(share, self._upload(share, extends, prompts))
        stored = {number for number, part in parts.items() if part.share.prompt_rows}
        num_rows = sum(span.length for span in extends)
        self._steps[step] = _Step(num_rows, parts, unstored=stored)

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        view = self._view_of[layer]
        running = self._steps[step]
        running.layer = layer
        for number, part in running.parts.items():
            if not part.share.view_rows[view]:
                continue
            tensors = [_pick(q, part.rows.views[view])]
            if part.share.extend_rows:
                tensors += [_pick(rows, part.rows.extends) for rows in (k, v)]
            self.links[number].send_tensors(Attend(step, layer), tensors)
            running.awaited.add(number)

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        running = self._steps[step]
        running.stored_layer = layer
        for number, part in running.parts.items():
            if part.share.prompt_rows:
                tensors = [_pick(rows, part.rows.prompts) for rows in (k, v)]
                self.links[number].send_tensors(Store(step, layer), tensors)
        return False

    def release(self, sequences: list[int]) -> None:
        held: list[list[int]] = [[] for _ in self.links]
        for sequence in sequences:
            for number in self._stripes.release(sequence):
                held[number].append(sequence)
        for link, some in zip(self.links, held, strict=True):
            if some:
                link.send(Release(some))

    def finish(self, step: int) -> None:
        self._steps.pop(step, None)

    def abandon(self, step: int) -> None:
        abandoned = self._steps.pop(step, None)
        for number in abandoned.parts if abandoned else ():
            self.links[number].abandon(step)

    def flush(self) -> bool:
        return any([link.flush() for link in self.links])

    def receive(self) -> list[Reply]:
        """What all workers that were asked have answered, merged."""
        return [reply for number in range(len(self.links)) for reply in self._receive(number)]

    def close(self) -> None:
        for link in self.links:
            link.close()

    def _reserve(self, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        for span in (*extends, *prompts):
            if span.source is not None:
                self._stripes.share(span.source, span.sequence.id, span.start)
            if not self._stripes.grow(span.sequence.id, span.start + span.length):
                raise WireError(
                    "the workers' KV caches are full; the scheduler must pre-empt first",
                    home=self.id,
                )

    def _upload(self, share: Share, extends: Sequence[Span], prompts: Sequence[Span]) -> _Rows:
        """Where the share's rows are among the home's, on the device."""
        num_extends, num_prompts = (
            sum(span.length for span in spans) for spans in (extends, prompts)
        )
        return _Rows(
            self._upload_rows(share.extend_rows, num_extends),
            self._upload_rows(share.prompt_rows, num_prompts),
            [self._upload_rows(rows, num_extends) for rows in share.view_rows],
        )

    def _upload_rows(self, rows: list[int], num_rows: int) -> torch.Tensor | None:
        return upload(rows, self._device) if 0 < len(rows) < num_rows else None

    def _receive(self, number: int) -> Iterator[Reply]:
        link, last = self.links[number], len(self._spec.layers) - 1
        for message, frames in link.receive():
            step = self._steps.get(message.step)
            if step is None:  # it was abandoned
                continue
            match message:
                case Attended(layer=layer, us=us):
                    link.expect(number in step.awaited and layer == step.layer, message)
                    step.parts[number].answer = self._partial(step, number, layer, frames)
                    step.seconds = max(step.seconds, 1e-6 * us)
                    step.awaited.discard(number)
                    if not step.awaited:
                        yield Reply(message.step, self._merge(step, layer), step.seconds)
                        step.seconds = 0.0
                case Stored():
                    link.expect(number in step.unstored and step.stored_layer == last, message)
                    step.unstored.discard(number)
                    if not step.unstored:
                        yield Reply(message.step, None)
                case _:
                    link.expect(False, message)

    def _partial(
        self, step: _Step, number: int, layer: int, frames: list[memoryview]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One worker's output (R, H, Dv) and log-sum-exps (R, H) of its R rows."""
        if len(frames) != 2:
            raise WireError(
                f"an answer of the wrong size: {len(frames)} frames, not 2", home=self.id
            )
        spec, link = self._spec.layers[layer], self.links[number]
        num_rows = len(step.parts[number].share.view_rows[self._view_of[layer]])
        output = link.take_in(frames[0], self._dtype, (num_rows, spec.num_heads, spec.value_dim))
        return output, link.take_in(frames[1], torch.float32, (num_rows, spec.num_heads))

    def _merge(self, step: _Step, layer: int) -> torch.Tensor:
        """(T, H, Dv), of what the workers answered."""
        spec, view = self._spec.layers[layer], self._view_of[layer]
        answered = [part for part in step.parts.values() if part.answer is not None]
        shape = (len(answered), step.num_rows, spec.num_heads)
        outputs = torch.zeros(*shape, spec.value_dim, device=self._device)
        lses = torch.full(shape, float("-inf"), device=self._device)
        for number, part in enumerate(answered):
            assert part.answer is not None
            rows = part.rows.views[view]
            place = slice(None) if rows is None else rows
            outputs[number, place] = part.answer[0].float()
            lses[number, place] = part.answer[1]
            part.answer = None
        return merge_partials(outputs, lses, self._sinks[layer])[0].to(self._dtype)


def _pick(rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
    return rows if indices is None else rows[indices]
