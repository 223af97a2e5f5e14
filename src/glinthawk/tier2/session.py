"""One client's model on a worker: its KV cache and the steps in progress."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

import torch

from glinthawk.core.errors import WireError
from glinthawk.core.spec import DTYPE_BYTES, KV_DTYPES, AttentionLayer
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.device import to_device, to_host
from glinthawk.tier2.pages import SpanTable
from glinthawk.wire.messages import Attend, Begin, Open, Spans, Store

__all__ = ["Session", "check_layers"]

_LARGEST_DIM = 65_536
#: Elements of one token's q, k, v and o in one layer; the largest models have some 100,000.
_LARGEST_ROW = 1 << 24
_LARGEST_WINDOW = 2**31 - 1

#: sequences, starts, lengths
_Columns = tuple[list[int], list[int], list[int]]


@dataclass(slots=True)
class _Step:
    """Tables of a step, each kept until its last layer is done."""

    extends: SpanTable | None
    prompts: SpanTable | None
    #: Where its sequences stood before it: (sequences, starts).
    before: tuple[list[int], list[int]]


class Session:
    """Checks every size before it touches memory: a bad message is a WireError and no more."""

    def __init__(self, request: Open, kv_bytes: int, device: torch.device | str = "cpu") -> None:
        self._layers = tuple(request.layers)
        self._dtype: torch.dtype = getattr(torch, request.wire_dtype)
        self._device = torch.device(device)
        self.cache = KVCache(
            self._layers, kv_bytes, request.kv_dtype, device, threads=torch.get_num_threads()
        )
        self._steps: dict[int, _Step] = {}
        #: Sequences in a step, and which: so steps cannot pile up, nor pages change hands in one.
        self._stepping: dict[int, int] = {}

    def begin(self, message: Begin) -> None:
        """Reserve pages for a step's rows."""
        if message.step in self._steps:
            raise WireError(f"step {message.step} has begun already")
        extends, prompts = (_columns(spans) for spans in (message.extends, message.prompts))
        sequences = extends[0] + prompts[0]
        if len(set(sequences)) != len(sequences):
            raise WireError("a sequence appears twice in one step")
        if any(prompts[1]):
            raise WireError("a prompt starts at position 0")
        self._check_resting(sequences)
        _check_forks(message.forks, sequences)
        tables = self.cache.begin(message.forks, extends, prompts)
        if any(tables):
            before = (sequences, extends[1] + prompts[1])
            self._steps[message.step] = _Step(tables[0], tables[1], before)
            self._stepping.update(dict.fromkeys(sequences, message.step))

    def attend(self, message: Attend, frames: Sequence[memoryview]) -> torch.Tensor:
        """Attention output (T, H, Dv), on the CPU, of the step's extends in one layer."""
        layer = self._layer(message.layer)
        table = self._step(message.step).extends
        if table is None:
            raise WireError(f"step {message.step} has no rows to attend here, or they are done")
        rows, kv_heads = table.num_rows, layer.num_kv_heads
        queries, keys, values = self._tensors(
            frames,
            (rows, layer.num_heads, layer.head_dim),
            (rows, kv_heads, layer.head_dim),
            (rows, kv_heads, layer.value_dim),
        )
        output = self.cache.attend(message.layer, table, queries, keys, values)
        if self._is_last(message.layer):
            self._steps[message.step].extends = None
            self._forget_if_done(message.step)
        return to_host(output)

    def store(self, message: Store, frames: Sequence[memoryview]) -> bool:
        """Keep k, v of the step's prompts in one layer; whether that was the last layer."""
        layer = self._layer(message.layer)
        table = self._step(message.step).prompts
        if table is None:
            raise WireError(f"step {message.step} has no prompts here, or they are done")
        keys, values = self._tensors(
            frames,
            (table.num_rows, layer.num_kv_heads, layer.head_dim),
            (table.num_rows, layer.num_kv_heads, layer.value_dim),
        )
        self.cache.store(message.layer, table, keys, values)
        if not self._is_last(message.layer):
            return False
        self._steps[message.step].prompts = None
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

    def _is_last(self, layer: int) -> bool:
        return layer == len(self._layers) - 1

    def _step(self, step: int) -> _Step:
        try:
            return self._steps[step]
        except KeyError:
            raise WireError(f"step {step} has not begun") from None

    def _forget_if_done(self, step: int) -> None:
        if self._steps[step].extends is None and self._steps[step].prompts is None:
            self._forget(step)

    def _forget(self, step: int) -> _Step:
        forgotten = self._steps.pop(step)
        for sequence in forgotten.before[0]:
            del self._stepping[sequence]
        return forgotten

    def _tensors(
        self, frames: Sequence[memoryview], *shapes: tuple[int, int, int]
    ) -> list[torch.Tensor]:
        if len(frames) != len(shapes):
            raise WireError(f"expected {len(shapes)} frames, got {len(frames)}")
        tensors = [
            _tensor(frame, shape, self._dtype) for frame, shape in zip(frames, shapes, strict=True)
        ]
        return to_device(tensors, self._device)


def _tensor(frame: memoryview, shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    """``frame`` seen as a tensor, without a copy."""
    rows, heads, dim = shape
    expected = rows * heads * dim * dtype.itemsize
    if frame.nbytes != expected:
        raise WireError(f"a frame of shape {shape} has {expected} bytes, not {frame.nbytes}")
    return torch.frombuffer(frame, dtype=dtype).view(shape)


def _columns(spans: Spans) -> _Columns:
    """The three lists of ``spans``, checked."""
    columns = (spans.sequences, spans.starts, spans.lengths)
    if len({len(column) for column in columns}) != 1:
        raise WireError("spans need as many sequences as starts and lengths")
    if any(not 0 <= start < 2**31 for start in spans.starts):
        raise WireError("a span starts below 0 or too far")
    if any(not 0 < length < 2**31 for length in spans.lengths):
        raise WireError("a span has no tokens or too many")
    return columns


def _check_forks(forks: list[tuple[int, int, int]], sequences: list[int]) -> None:
    """Who begins with another's pages takes one of its own in the same step: else there could be
    more sequences than pages. Raises WireError."""
    stepping = set(sequences)
    for _, sequence, _ in forks:
        if sequence not in stepping:
            raise WireError(f"sequence {sequence} begins with another's KV but is not in the step")


def check_layers(request: Open) -> None:
    """Raise WireError for layers over which nothing can be attended."""
    if request.wire_dtype not in DTYPE_BYTES or request.kv_dtype not in KV_DTYPES:
        raise WireError(f"dtypes are {', '.join(DTYPE_BYTES)}, for KV also int8")
    if not request.layers:
        raise WireError("a model has at least one attention layer")
    for layer in request.layers:
        _check_layer(layer)


def _check_layer(layer: AttentionLayer) -> None:
    sizes = (layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.value_dim)
    if not all(0 < size <= _LARGEST_DIM for size in sizes) or layer.wire_elements > _LARGEST_ROW:
        raise WireError(f"a layer has a size out of range: {sizes}")
    if layer.num_heads % layer.num_kv_heads:
        raise WireError("query heads must be a multiple of KV heads")
    if layer.sinks is not None and len(layer.sinks) != layer.num_heads:
        raise WireError("sinks are one number a query head")
    if layer.window is not None and not 1 <= layer.window <= _LARGEST_WINDOW:
        raise WireError(f"a window holds 1 to {_LARGEST_WINDOW} tokens, the query's own included")
    if not isfinite(layer.scaling) or not 0 < (layer.softcap or 1.0) < inf or layer.softcap == 0:
        raise WireError("scaling and softcap must be finite numbers, softcap above 0")
