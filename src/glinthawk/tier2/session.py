"""One client's model on a worker: its KV cache and the steps in progress."""

from collections.abc import Sequence

import torch

from glinthawk.core.errors import WireError
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.device import to_device, to_host
from glinthawk.tier2.message_columns import Columns, list_spans, list_view
from glinthawk.tier2.pages.page_files import PageFile
from glinthawk.tier2.pages.page_table import SpanTable
from glinthawk.tier2.pages.visible_pages import Sight, find_sight
from glinthawk.tier2.running_step import RunningStep
from glinthawk.wire.channel import LARGEST_FRAME
from glinthawk.wire.messages import Attend, Begin, BeginPart, Fetch, Open, Store

__all__ = ["Session"]

#: Sequences in a session with views, which may be here with no page of their own.
_MOST_SEQUENCES = 1 << 20
#: Pages that all rows of a step's views see together.
_MOST_SEEN = 1 << 27


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
            self.cache.unit_bytes(0)  # refuses what cannot be read
        self._steps: dict[int, RunningStep] = {}
        #: Sequences in a step, and which: so steps cannot pile up, nor pages change hands in one.
        self._stepping: dict[int, int] = {}

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
        views = self._views(message)
        everyone = list({*sequences, *(number for view in views for number in view[0])})
        self._check_resting(everyone)
        self._check_forks(message, sequences)
        self._check_views(message, extends, prompts, views)
        tables = self.cache.begin(message.forks, extends, prompts)
        written = [table for table in tables if table is not None]
        before = (sequences, extends[1] + prompts[1])
        try:
            rows = self._rows(views, tables[0])
        except BaseException:  # there is no memory for the tables
            for table in written:
                self.cache.end(table)
            self.cache.pages.rewind(*before)
            raise
        step = RunningStep(tables[0], tables[1], rows, before, everyone, written)
        if tables[1] or any(rows):
            self._steps[message.step] = step
            self._stepping.update(dict.fromkeys(everyone, message.step))
        else:
            self._end(step)

    def attend(self, message: Attend, frames: Sequence[memoryview]) -> list[torch.Tensor]:
        """Attention output (T, H, Dv), on the CPU, of the step's rows in one layer; in a session
        with views also their log-sum-exps (T, H)."""
        layer = self._layer(message.layer)
        step = self._step(message.step)
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
            return [self.cache.attend(layer, rows, queries, *kv)]
        if extends is not None:
            self.cache.store(layer, extends, *kv)
        return self.cache.query(layer, rows, queries)

    def fetch(self, message: Fetch, frames: Sequence[memoryview]) -> list[torch.Tensor]:
        """Pages (U, unit bytes) that the step's rows see in one layer, and which of those each page
        of each row is (P,)."""
        layer = self._layer(message.layer)
        step = self._step(message.step)
        rows = step.extends
        if rows is None or step.rows[message.layer] is not rows:
            raise WireError(f"step {message.step} has no rows to fetch for, or they are done")
        _check_order(message, step.layer_to_attend())
        keys, values = self._tensors(frames, *_kv_shapes(layer, rows.num_rows))
        sight = self._sight(step, rows, message.layer)
        self.cache.store(message.layer, rows, keys, values)
        pages = self.cache.read(message.layer, sight.table)
        self._end_layer(message.step, message.layer)
        return [pages, sight.places]

    def _sight(self, step: RunningStep, rows: SpanTable, layer: int) -> Sight:
        """Pages to send. Raises WireError when they are too many for a frame."""
        window = self._layers[layer].window
        if window not in step.sights:
            step.sights[window] = find_sight(rows, window, self.cache.pages.page_tokens)
        sight = step.sights[window]
        if sight.num_pages * self.cache.unit_bytes(layer) > LARGEST_FRAME:
            raise WireError("a step sees too many pages to send; use a smaller --batch-size")
        return sight

    def _end_layer(self, step: int, layer: int) -> None:
        """After the last layer, rows that attend are done."""
        running = self._steps[step]
        running.next_attended = layer + 1
        if running.layer_to_attend() is None:
            running.extends, running.rows = None, [None] * len(self._layers)
            self._forget_if_done(step)

    def store(self, message: Store, frames: Sequence[memoryview]) -> bool:
        """Keep k, v of the step's prompts in one layer; whether that was the last layer."""
        layer = self._layer(message.layer)
        step = self._step(message.step)
        table = step.prompts
        if table is None:
            raise WireError(f"step {message.step} has no prompts here, or they are done")
        _check_order(message, step.next_stored)
        keys, values = self._tensors(frames, *_kv_shapes(layer, table.num_rows))
        self.cache.store(message.layer, table, keys, values)
        step.next_stored += 1
        if message.layer < len(self._layers) - 1:
            return False
        step.prompts = None
        self._forget_if_done(message.step)
        return True

    def release(self, sequences: list[int]) -> None:
        """Forget ``sequences``; others may have their pages at once."""
        self._check_resting(sequences)
        self.cache.release(sequences)

    def abandon(self, step: int) -> None:
        """What the step wrote is not in all layers, so nobody may attend over it."""
        if step in self._steps:
            self.cache.pages.rewind(*self._forget(step).before)

    def _check_resting(self, sequences: list[int]) -> None:
        for sequence in sequences:
            if sequence in self._stepping:
                raise WireError(
                    f"sequence {sequence} is in step {self._stepping[sequence]}; "
                    "finish or abandon that first"
                )

    def _layer(self, index: int) -> AttentionLayer:
        if not 0 <= index < len(self._layers):
            raise WireError(f"layer {index} is not one of the model's {len(self._layers)}")
        return self._layers[index]

    def _views(self, message: Begin) -> list[Columns]:
        """The views of a step, none if no row attends by one."""
        if isinstance(message, BeginPart) != bool(self._view_of):
            raise WireError("a step has views if, and only if, the session has")
        views = message.views if isinstance(message, BeginPart) else []
        num_views = max(self._view_of, default=-1) + 1
        if views and len(views) != num_views:
            raise WireError(f"this session has {num_views} views, not {len(views)}")
        return [list_view(view) for view in views]

    def _check_views(
        self, message: Begin, extends: Columns, prompts: Columns, views: list[Columns]
    ) -> None:
        """Every row sees something, and nothing that will not be here; and what is kept is kept
        where rows attend."""
        pages = self.cache.pages
        coming = {sequence: num_tokens for _, sequence, num_tokens in message.forks}
        coming |= {s: start + length for s, start, length in zip(*extends, strict=True)}
        num_seen = 0
        for sequence, first, end in (row for view in views for row in zip(*view, strict=True)):
            held = max(coming.get(sequence, 0), pages.num_tokens(sequence))
            if not 0 <= first < end <= held:
                raise WireError(f"sequence {sequence} has no tokens {first} to {end} here")
            num_seen += (end - first) // pages.page_tokens + 2
        if num_seen > _MOST_SEEN:
            raise WireError("the rows of one step see too many pages; send smaller steps")
        if self._view_of and extends[0] and not (views and all(view[0] for view in views)):
            raise WireError("rows that extend attend in every layer; a view of them is empty")
        if not {number for view in views for number in view[0]}.isdisjoint(prompts[0]):
            raise WireError("a row sees a prompt of its own step")

    def _rows(self, views: list[Columns], extends: SpanTable | None) -> list[SpanTable | None]:
        """The rows that attend in each layer."""
        if not views:
            return [None if self._view_of else extends] * len(self._layers)
        tables = [self.cache.look_at(*view) if view[0] else None for view in views]
        return [tables[index] for index in self._view_of]

    def _check_forks(self, message: Begin, sequences: list[int]) -> None:
        """Who begins with another's pages takes one of its own in the same step, where it can: else
        there could be more sequences than pages. What a step under way writes is not here yet.
        Raises WireError."""
        for source, _, num_tokens in message.forks:
            step = self._stepping.get(source)
            if step is not None and num_tokens > self._steps[step].start_of(source):
                raise WireError(
                    f"sequence {source} is in step {step}, which may write to its first "
                    f"{num_tokens} tokens; finish or abandon that first"
                )
        if self._view_of:
            if self.cache.pages.num_sequences + len(message.forks) > _MOST_SEQUENCES:
                raise WireError(f"there are {_MOST_SEQUENCES} sequences here; release some")
            return
        for sequence in {fork[1] for fork in message.forks} - set(sequences):
            raise WireError(f"sequence {sequence} begins with another's KV but is not in the step")

    def _step(self, step: int) -> RunningStep:
        try:
            return self._steps[step]
        except KeyError:
            raise WireError(f"step {step} has not begun") from None

    def _forget_if_done(self, step: int) -> None:
        if self._steps[step].prompts is None and not any(self._steps[step].rows):
            self._forget(step)

    def _forget(self, step: int) -> RunningStep:
        forgotten = self._steps.pop(step)
        for sequence in forgotten.sequences:
            del self._stepping[sequence]
        self._end(forgotten)
        return forgotten

    def _end(self, step: RunningStep) -> None:
        for table in step.written:
            self.cache.end(table)

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
