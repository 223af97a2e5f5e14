"""Several places as one home: each keeps some tokens of a sequence, which may outgrow them all.

A row's query goes to every worker that holds tokens that it sees. Each answers attention over its
own ones with their log-sum-exp, by which the answers are merged. The last place may be Tier 1,
which works while the workers do (``own_part.py``).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from glinthawk.attention.reference import merge_partials
from glinthawk.core.batch import Span
from glinthawk.core.errors import WireError
from glinthawk.core.spec import ModelSpec
from glinthawk.tier1.device.staging import Staging
from glinthawk.tier1.forward.cut import Arguments
from glinthawk.tier1.kv.home import Reply, WorkerHome
from glinthawk.tier1.kv.link import Link
from glinthawk.tier1.kv.own_part import OwnPart, OwnShare, PartialAnswer
from glinthawk.tier1.kv.token_sharding import Rows, Share, pick, share_step
from glinthawk.tier1.kv.token_stripes import Stripes
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import Attend, Attended, BeginPart, ReleaseKV, Store, Stored

__all__ = ["STRIPE_PAGES", "RangeSplitHome"]

#: Pages in a row at one worker. A sequence of less than these 512 tokens has little to gain from
#: being read in two places, and its queries would travel twice.
STRIPE_PAGES = 16


@dataclass(slots=True)
class _Part:
    """A worker's part of a step, and what it answered in the current layer."""

    share: Share
    rows: Rows
    answer: PartialAnswer | None = None


@dataclass(slots=True)
class _Step:
    num_rows: int
    parts: dict[int, _Part]
    #: Tier 1's own answer.
    here: PartialAnswer | None = None
    #: Workers that have not answered for the current layer, and not confirmed the prompts.
    awaited: set[int] = field(default_factory=set)
    unstored: set[int] = field(default_factory=set)
    #: The current layer, and the last one whose prompts have been sent.
    layer: int = -1
    stored_layer: int = -1
    seconds: float = 0.0


class RangeSplitHome(WorkerHome):
    """Windows become ranges that the workers are told; sinks are added by the merge."""

    def __init__(
        self,
        id: int,
        channels: Sequence[ClientChannel],
        spec: ModelSpec,
        device: torch.device,
        staging: Callable[[], Staging | None] = lambda: None,
        stripe_pages: int = STRIPE_PAGES,
        own: OwnShare | None = None,
    ) -> None:
        self.id = id
        self._links = [Link(id, channel, device, staging()) for channel in channels]
        self._spec = spec
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self._device = device
        self._windows = list(dict.fromkeys(layer.window for layer in spec.layers))
        self._view_of = [self._windows.index(layer.window) for layer in spec.layers]
        self._sinks = [
            None if layer.sinks is None else torch.tensor(layer.sinks, device=device)
            for layer in spec.layers
        ]
        self._stripe_pages, self._own_share = stripe_pages, own
        self._stripes: Stripes
        #: Tier 1's, the last place.
        self._own: OwnPart | None = None
        self._steps: dict[int, _Step] = {}

    @property
    def links(self) -> list[Link]:
        return self._links

    @property
    def num_pages(self) -> int:
        return sum(self._count_pages())

    @property
    def xcache_bytes_peak(self) -> int:
        return 0 if self._own is None else self._own.peak_bytes

    @property
    def most_sequences(self) -> int:
        """Without drives nothing but pages counts, those of X among them."""
        if any(link.most_sequences < link.num_pages for link in self.links):
            return sum(link.most_sequences for link in self.links)
        return self.num_pages

    def open(self, kv_dtype: str) -> None:
        layers = [replace(layer, window=None, sinks=None) for layer in self._spec.layers]
        for link in self.links:
            link.open(layers, self._spec.dtype, kv_dtype, self._view_of)

    def await_open(self, timeout_s: float) -> None:
        super().await_open(timeout_s)
        self._deal()

    def has_opened(self) -> bool:
        have_opened = super().has_opened()
        if have_opened:
            self._deal()
        return have_opened

    def _count_pages(self) -> list[int]:
        """Of each place."""
        counts = [link.num_pages for link in self.links]
        if self._own_share is not None:
            counts.append(self._own_share.count_pages(sum(counts), self.page_tokens))
        return counts

    def _deal(self) -> None:
        counts, own = self._count_pages(), self._own_share
        shares = None if own is None else own.deal(counts[:-1])
        self._stripes = Stripes(counts, self.page_tokens, self._stripe_pages, shares)
        if own is not None:
            pages = self._stripes.pages(len(self.links))
            self._own = own.open(self._spec, pages, self._device)

    def begin(self, step: int, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        """Raises WireError when the pages of all places together run out."""
        self._reserve(extends, prompts)
        shares = share_step(self._stripes, self._windows, extends, prompts)
        num_extends, num_prompts = (
            sum(span.length for span in spans) for spans in (extends, prompts)
        )
        parts = {}
        for number, share in enumerate(shares):
            if share.is_empty:
                continue
            part = _Part(share, Rows.upload(share, num_extends, num_prompts, self._device))
            if number < len(self.links):
                parts[number] = part
                self._announce(step, number, share)
            elif self._own is not None:
                self._own.begin(step, share, part.rows)
        stored = {number for number, part in parts.items() if part.share.prompt_rows}
        self._steps[step] = _Step(num_extends, parts, unstored=stored)

    def show(
        self, step: int, layer: int, given: Arguments, extends: slice | None, prompts: slice | None
    ) -> None:
        if self._own is not None:
            self._own.keep(step, layer, given, extends, prompts)

    def attend(
        self, step: int, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        view = self._view_of[layer]
        running = self._steps[step]
        running.layer = layer
        for number, part in running.parts.items():
            if not part.share.view_rows[view]:
                continue
            tensors = [pick(q, part.rows.views[view])]
            if part.share.extend_rows:
                tensors += [pick(rows, part.rows.extends) for rows in (k, v)]
            self.links[number].send_tensors(Attend(step, layer), tensors)
            running.awaited.add(number)
        if self._own is not None:
            self._own.ask(step, view, q)

    def attend_here(self, step: int) -> torch.Tensor | None:
        running = self._steps[step]
        if self._own is not None:
            running.here = self._own.answer(step, running.layer)
        return None if running.awaited else self._merge(running, running.layer)

    def store(self, step: int, layer: int, k: torch.Tensor, v: torch.Tensor) -> bool:
        running = self._steps[step]
        running.stored_layer = layer
        for number, part in running.parts.items():
            if part.share.prompt_rows:
                tensors = [pick(rows, part.rows.prompts) for rows in (k, v)]
                self.links[number].send_tensors(Store(step, layer), tensors)
        return not running.unstored

    def release(self, sequences: list[int]) -> None:
        held: list[list[int]] = [[] for _ in range(self._stripes.num_parts)]
        for sequence in sequences:
            for number in self._stripes.release(sequence):
                held[number].append(sequence)
        for link, some in zip(self.links, held, strict=False):  # Tier 1 need not be told
            if some:
                link.send(ReleaseKV(some))

    def finish(self, step: int) -> None:
        self._steps.pop(step, None)
        if self._own is not None:
            self._own.end(step)

    def abandon(self, step: int) -> None:
        abandoned = self._steps.get(step)
        self.finish(step)
        for number in abandoned.parts if abandoned else ():
            self.links[number].abandon(step)

    def receive(self) -> list[Reply]:
        """What all workers that were asked have answered, merged."""
        return [reply for number in range(len(self.links)) for reply in self._receive(number)]

    def _reserve(self, extends: Sequence[Span], prompts: Sequence[Span]) -> None:
        for span in (*extends, *prompts):
            if span.source is not None:
                self._stripes.share(span.source, span.sequence.id, span.start)
            if not self._stripes.grow(span.sequence.id, span.start + span.length):
                raise WireError(
                    "the workers' KV caches are full; the scheduler must pre-empt first",
                    home=self.id,
                )

    def _announce(self, step: int, number: int, share: Share) -> None:
        views = share.views_to_send
        message = BeginPart(step, share.extends, share.prompts, share.forks, views)
        self.links[number].send(message)

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
    ) -> PartialAnswer:
        """What one worker says to its rows."""
        if len(frames) != 2:
            raise WireError(
                f"an answer of the wrong size: {len(frames)} frames, not 2", home=self.id
            )
        spec, link, view = self._spec.layers[layer], self.links[number], self._view_of[layer]
        part = step.parts[number]
        num_rows = len(part.share.view_rows[view])
        output = link.take_in(frames[0], self._dtype, (num_rows, spec.num_heads, spec.value_dim))
        lses = link.take_in(frames[1], torch.float32, (num_rows, spec.num_heads))
        return part.rows.views[view], output, lses

    def _merge(self, step: _Step, layer: int) -> torch.Tensor:
        """(T, H, Dv), of what all have answered."""
        spec = self._spec.layers[layer]
        answers = [part.answer for part in step.parts.values() if part.answer is not None]
        answers += [step.here] if step.here is not None else []
        shape = (len(answers), step.num_rows, spec.num_heads)
        outputs = torch.zeros(*shape, spec.value_dim, device=self._device)
        lses = torch.full(shape, float("-inf"), device=self._device)
        for number, (rows, output, lse) in enumerate(answers):
            place = slice(None) if rows is None else rows
            outputs[number, place] = output.float()
            lses[number, place] = lse
        for part in step.parts.values():
            part.answer = None
        step.here = None
        return merge_partials(outputs, lses, self._sinks[layer])[0].to(self._dtype)
