"""One client's model on a worker: its KV cache and the steps in progress."""

from collections.abc import Sequence

import torch

from glinthawk.core.errors import WireError
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.device import to_device, to_host
from glinthawk.tier2.message_columns import Columns, list_spans
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.pages.page_table import SpanTable
from glinthawk.tier2.pages.visible_pages import Sight, find_sight
from glinthawk.tier2.running_step import RunningStep
from glinthawk.tier2.running_steps import RunningSteps
from glinthawk.tier2.step_views import check_views, list_views
from glinthawk.wire.channel import LARGEST_FRAME
from glinthawk.wire.messages import Attend, Begin, Fetch, Open, Store

__all__ = ["Session"]

#: Sequences in a session with views, which may be here with no page of their own.
_MOST_SEQUENCES = 1 << 20


class Session:
    """Checks every size before it touches memory: a bad message is a WireError and no more."""

    def __init__(
        self,
        request: Open,
        kv_bytes: int,
        device: torch.device | str = "cpu",
        files: Sequence[PageFile] = (),
    ) -> None:
        self._layers = tuple(request.layers)
        self._view_of = request.views
        self._dtype: torch.dtype = getattr(torch, request.wire_dtype)
        self._device = torch.device(device)
        self.cache = KVCache(
            self._layers,
            kv_bytes,
            request.kv_dtype,
            device,
            threads=torch.get_num_threads(),
            files=files,
        )
        if request.fetches:
            self.cache.backend.unit_bytes(0)  # refuses what cannot be read
        self._steps = RunningSteps()

    def begin(self, message: Begin) -> None:
        """Reserve pages for a step's rows."""
        if message.step in self._steps:
            raise WireError(f"step {message.step} has begun already")
        extends, prompts = (list_spans(spans) for spans in (message.extends, message.prompts))
        sequences = extends[0] + prompts[0]
        if len(set(sequences)) != len(sequences):
            raise WireError("a sequence appears twice in one step")
        if any(prompts[1]):
            raise WireError("a prompt starts at position 0")
        views = list_views(message, self._view_of)
        everyone = list({*sequences, *(number for view in views for number in view[0])})
        self._steps.check_resting(everyone)
        self._check_forks(message, sequences)
        check_views(message, extends, prompts, views, self.cache.pages)
        tables = self.cache.begin(message.forks, extends, prompts)
        written = [table for table in tables if table is not None]
        before = (sequences, extends[1] + prompts[1])
        try:
            rows = self._rows(views, tables[0])
        except BaseException:  # there is no memory for the tables
            for table in written:
                self.cache.backend.end(table)
            self.cache.pages.rewind(*before)
            raise
        step = RunningStep(tables[0], tables[1], rows, before, everyone, written)
        if tables[1] or any(rows):
            self._steps.add(message.step, step)
        else:
            self._end(step)

    def attend(self, message: Attend, frames: Sequence[memoryview]) -> list[torch.Tensor]:
        """Attention output (T, H, Dv), on the CPU, of the step's rows in one layer; in a session
        with views also their log-sum-exps (T, H)."""
        layer = self._layer(message.layer)
        step = self._steps.find(message.step)
        rows = step.rows[message.layer]
        if rows is None:
            raise WireError(f"step {message.step} has no rows to attend here, or they are done")
        _check_order(message, step.layer_to_attend())
        shapes = [(rows.num_rows, layer.num_heads, layer.head_dim)]
        if step.extends is not None:
            shapes += _kv_shapes(layer, step.extends.num_rows)
        tensors = self._tensors(frames, *shapes)
        answer = self._attend(message.layer, step.extends, rows, *tensors)
        self._end_layer(message.step, message.layer)
        return [to_host(tensor) for tensor in answer]

    def _attend(
        self,
        layer: int,
        extends: SpanTable | None,
        rows: SpanTable,
        queries: torch.Tensor,
        *kv: torch.Tensor,
    ) -> Sequence[torch.Tensor]:
        if rows is extends:
            return [self.cache.backend.append_attend(layer, rows, queries, *kv)[0]]
        if extends is not None:
            self.cache.backend.append(layer, extends, *kv)
        return self.cache.backend.attend(layer, rows, queries)

    def fetch(self, message: Fetch, frames: Sequence[memoryview]) -> list[torch.Tensor]:
        """Pages (U, unit bytes) that the step's rows see in one layer, and which of those each page
        of each row is (P,)."""
        layer = self._layer(message.layer)
        step = self._steps.find(message.step)
        rows = step.extends
        if rows is None or step.rows[message.layer] is not rows:
            raise WireError(f"step {message.step} has no rows to fetch for, or they are done")
        _check_order(message, step.layer_to_attend())
        keys, values = self._tensors(frames, *_kv_shapes(layer, rows.num_rows))
        sight = self._sight(step, rows, message.layer)
        self.cache.backend.append(message.layer, rows, keys, values)
        pages = self.cache.backend.read(message.layer, sight.table)
        self._end_layer(message.step, message.layer)
        return [pages, sight.places]

    def _sight(self, step: RunningStep, rows: SpanTable, layer: int) -> Sight:
        """Pages to send. Raises WireError when they are too many for a frame."""
        window = self._layers[layer].window
        if window not in step.sights:
            step.sights[window] = find_sight(rows, window, self.cache.pages.page_tokens)
        sight = step.sights[window]
        if sight.num_pages * self.cache.backend.unit_bytes(layer) > LARGEST_FRAME:
            raise WireError("a step sees too many pages to send; use a smaller --batch-size")
        return sight

    def _end_layer(self, step: int, layer: int) -> None:
        """After the last layer, rows that attend are done."""
        running = self._steps.find(step)
        running.next_attended = layer + 1
        if running.layer_to_attend() is None:
            running.extends, running.rows = None, [None] * len(self._layers)
            self._end_if_done(step)

    def store(self, message: Store, frames: Sequence[memoryview]) -> bool:
        """Keep k, v of the step's prompts in one layer; whether that was the last layer."""
        layer = self._layer(message.layer)
        step = self._steps.find(message.step)
        table = step.prompts
        if table is None:
            raise WireError(f"step {message.step} has no prompts here, or they are done")
        _check_order(message, step.next_stored)
        keys, values = self._tensors(frames, *_kv_shapes(layer, table.num_rows))
        self.cache.backend.append(message.layer, table, keys, values)
        step.next_stored += 1
        if message.layer < len(self._layers) - 1:
            return False
        step.prompts = None
        self._end_if_done(message.step)
        return True

    def release(self, sequences: list[int]) -> None:
        """Forget ``sequences``; others may have their pages at once."""
        self._steps.check_resting(sequences)
        self.cache.release(sequences)

    def abandon(self, step: int) -> None:
        """What the step wrote is not in all layers, so nobody may attend over it."""
        if step in self._steps:
            abandoned = self._steps.remove(step)
            self._end(abandoned)
            self.cache.pages.rewind(*abandoned.before)

    def _layer(self, index: int) -> AttentionLayer:
        if not 0 <= index < len(self._layers):
            raise WireError(f"layer {index} is not one of the model's {len(self._layers)}")
        return self._layers[index]

    def _rows(self, views: list[Columns], extends: SpanTable | None) -> list[SpanTable | None]:
        """The rows that attend in each layer."""
        if not views:
            return [None if self._view_of else extends] * len(self._layers)
        tables = [self.cache.pages.look_at(*view) if view[0] else None for view in views]
        return [tables[index] for index in self._view_of]

    def _check_forks(self, message: Begin, sequences: list[int]) -> None:
        """Who begins with another's pages takes one of its own in the same step, where it can: else
        there could be more sequences than pages. Raises WireError."""
        for source, _, num_tokens in message.forks:
            self._steps.check_written(source, num_tokens)
        if self._view_of:
            if self.cache.pages.num_sequences + len(message.forks) > _MOST_SEQUENCES:
                raise WireError(f"there are {_MOST_SEQUENCES} sequences here; release some")
            return
        for sequence in {fork[1] for fork in message.forks} - set(sequences):
            raise WireError(f"sequence {sequence} begins with another's KV but is not in the step")

    def _end_if_done(self, step: int) -> None:
        running = self._steps.find(step)
        if running.prompts is None and not any(running.rows):
            self._end(self._steps.remove(step))

    def _end(self, step: RunningStep) -> None:
        for table in step.written:
            self.cache.backend.end(table)

    def _tensors(
        self, frames: Sequence[memoryview], *shapes: tuple[int, int, int]
    ) -> list[torch.Tensor]:
        if len(frames) != len(shapes):
            raise WireError(f"expected {len(shapes)} frames, got {len(frames)}")
        tensors = [
            _tensor(frame, shape, self._dtype) for frame, shape in zip(frames, shapes, strict=True)
        ]
        return to_device(tensors, self._device)


def _check_order(message: Attend | Fetch | Store, layer: int | None) -> None:
    """KV on drives is written a layer after the other, and what is read must have been written."""
    if message.layer != layer:
        raise WireError(f"layer {message.layer} of step {message.step} is out of order")


def _tensor(frame: memoryview, shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    """``frame`` seen as a tensor, without a copy."""
    rows, heads, dim = shape
    expected = rows * heads * dim * dtype.itemsize
    if frame.nbytes != expected:
        raise WireError(f"a frame of shape {shape} has {expected} bytes, not {frame.nbytes}")
    return torch.frombuffer(frame, dtype=dtype).view(shape)


def _kv_shapes(layer: AttentionLayer, rows: int) -> list[tuple[int, int, int]]:
    """Of the frames k and v."""
    return [(rows, layer.num_kv_heads, size) for size in (layer.head_dim, layer.value_dim)]
