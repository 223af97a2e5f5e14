"""Small forward passes replayed: each piece between two attentions is launched by one call.

A GPU is done with a few rows of a layer before Python has launched it. So a pass of up to some
hundred rows is padded to one of a few sizes and recorded, once, through the same suspensions that
cut it (``cut.py``): a piece from each to the next. Its inputs, the q, k, v of every Call and the
logits have memory of their own, so one recording serves one pass at a time; another one is made for
each batch of that size that is under way at the same time.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedModel

from glinthawk.core.error_text import first_line
from glinthawk.core.slices import LayerSlice
from glinthawk.tier1.forward.closeness import distance
from glinthawk.tier1.forward.cut import Call, Forward, Pass, attend_alone, make_hidden
from glinthawk.tier1.forward.recording import Recorder, Replay, Unrecordable, ValueWatch

__all__ = ["BUCKETS", "GraphedPasses", "ReplayedPass"]

_log = logging.getLogger(__name__)

#: Rows of a recorded pass. What is larger keeps a GPU busy as it is.
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512)

#: How far a replayed pass may be from a plain one, relative to its norm.
_TOLERANCE = {torch.float32: 1e-3}
_HALF_TOLERANCE = 0.05


class GraphedPasses:
    """Makes the passes of one model: replayed where they are small, else plain.

    A model that cannot be recorded, or not be replayed right, gets plain passes from then on.
    ``part`` is the pipeline slice that the model is, None if it is whole; ``has_lengths``, whether
    it rotates rows by them; ``num_adapters`` are those that its rows may have.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        recorder: Recorder,
        part: LayerSlice | None = None,
        has_lengths: bool = False,
        num_adapters: int = 0,
    ) -> None:
        self._model, self._has_lengths, self._num_adapters = model, has_lengths, num_adapters
        self._receives = part is not None and not part.is_first
        self._gives_hidden = part is not None and not part.is_last
        self._recorder = recorder
        self._is_off = False
        #: Recordings that no pass uses, by their number of rows.
        self._free: dict[int, list[_Recording]] = defaultdict(list)

    @torch.inference_mode()
    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        keep: torch.Tensor,
        hidden: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
        adapters: torch.Tensor | None = None,
    ) -> Forward:
        # Only rows of prompts are pooled: such a pass is seldom small.
        recording = self._borrow(len(input_ids)) if pooled is None else None
        if recording is None:
            columns = input_ids, position_ids, keep, hidden, lengths, pooled, adapters
            return Pass(self._model, *columns)
        recording.take_in(input_ids, position_ids, hidden, lengths, adapters)
        num_rows = len(input_ids)
        kept = None if self._gives_hidden or len(keep) == num_rows else keep
        return ReplayedPass(recording, num_rows, kept, self._take_back)

    def _borrow(self, num_rows: int) -> "_Recording | None":
        bucket = next((bucket for bucket in BUCKETS if bucket >= num_rows), None)
        if bucket is None or self._is_off:
            return None
        free = self._free[bucket]
        return free.pop() if free else self._record(bucket)

    def _record(self, num_rows: int) -> "_Recording | None":
        try:
            begins = self._receives, self._has_lengths, self._num_adapters > 0
            recording = _Recording(self._model, num_rows, self._recorder, *begins)
            _compare(recording, self._model, self._num_adapters)
        except Exception as error:  # if it is the model's own, the plain pass will say so
            _log.warning("passes run without CUDA graphs: %s", first_line(error))
            self._is_off = True
            self._free.clear()
            return None
        return recording

    def _take_back(self, recording: "_Recording") -> None:
        if not self._is_off:
            self._free[recording.num_rows].append(recording)


class ReplayedPass:
    """A Forward of ``num_rows`` rows, at most as many as ``recording`` has, in its memory until
    ``close``. It ends with the rows in ``keep`` (R,), or with all."""

    #: Nothing is pooled.
    states = None

    def __init__(
        self,
        recording: "_Recording",
        num_rows: int,
        keep: torch.Tensor | None,
        give_back: Callable[["_Recording"], None],
    ) -> None:
        self.depth = -1
        self._num_rows = num_rows
        self._keep = keep
        self._recording: _Recording | None = recording
        self._give_back = give_back

    def resume(self, output: torch.Tensor | None) -> Call | torch.Tensor:
        assert self._recording is not None, "the pass is closed"
        self.depth += 1
        result = self._recording.replay(self.depth, output)
        if isinstance(result, Call):
            return result.head(self._num_rows)
        return result[: self._num_rows] if self._keep is None else result[self._keep]

    def close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            self._give_back(recording)


class _Recording:
    """The pieces of one forward pass of ``num_rows`` rows, and the memory that they work on."""

    def __init__(
        self,
        model: PreTrainedModel,
        num_rows: int,
        recorder: Recorder,
        receives: bool,
        has_lengths: bool,
        has_adapters: bool,
    ) -> None:
        self.num_rows = num_rows
        self._hidden = make_hidden(model, num_rows) if receives else None
        rows = partial(torch.zeros, num_rows, dtype=torch.long, device=model.device)
        self._ids, self._positions = rows(), rows()
        self._lengths = rows() if has_lengths else None
        self._adapters = rows() if has_adapters else None
        #: Outputs of attention. Layers of one shape share theirs: a piece has read it before the
        #: next Call is answered.
        self._outputs: dict[torch.Size, torch.Tensor] = {}
        #: Each piece, what it ends with, and the buffer of the answer to that.
        self._pieces: list[tuple[Replay, Call | torch.Tensor, torch.Tensor | None]] = []
        #: Read by the last piece, as all above: what a recording reads lives as long as it.
        self._keep = torch.arange(num_rows, device=model.device)
        columns = self._ids, self._positions, self._keep, self._hidden, self._lengths
        plain = partial(Pass, model, *columns, adapters=self._adapters)
        recorder.rehearse(partial(_rehearse, plain))
        self._record(plain(), recorder)

    def _record(self, forward: Pass, recorder: Recorder) -> None:
        pool, output = recorder.new_pool(), None
        try:
            while True:
                result, replay = recorder.record(partial(forward.resume, output), pool)
                output = self._output(result) if isinstance(result, Call) else None
                self._pieces.append((replay, result, output))
                if output is None:
                    return
        finally:
            forward.close()

    def _output(self, call: Call) -> torch.Tensor:
        shape = torch.Size((self.num_rows, call.queries.shape[1], call.values.shape[-1]))
        if shape not in self._outputs:
            self._outputs[shape] = call.queries.new_zeros(shape)
        return self._outputs[shape]

    @property
    def receives(self) -> bool:
        """Whether a pass begins with a hidden state."""
        return self._hidden is not None

    def take_in(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        hidden: torch.Tensor | None,
        lengths: torch.Tensor | None = None,
        adapters: torch.Tensor | None = None,
    ) -> None:
        """Begin a pass. The rows behind are tokens of an earlier one, and attend to nothing."""
        num_rows = len(input_ids)
        self._ids[:num_rows] = input_ids
        self._positions[:num_rows] = position_ids
        if self._hidden is not None and hidden is not None:
            self._hidden[:num_rows] = hidden
        if self._lengths is not None:
            self._lengths[:num_rows] = 0 if lengths is None else lengths
        if self._adapters is not None:
            self._adapters[:num_rows] = 0 if adapters is None else adapters
        for buffer in self._outputs.values():
            buffer[num_rows:] = 0

    def replay(self, index: int, output: torch.Tensor | None) -> Call | torch.Tensor:
        """Run a piece, with the answer to the Call before it, to what it ends with, padded."""
        if output is not None:
            buffer = self._pieces[index - 1][2]
            assert buffer is not None
            buffer[: len(output)] = output
        replay, result, _ = self._pieces[index]
        replay()
        return result


def _rehearse(plain: Callable[[], Pass]) -> None:
    """A whole pass outside of any recording, so that what cannot be recorded shows."""
    forward = plain()
    with ValueWatch():  # type: ignore[no-untyped-call]
        result = forward.resume(None)
        while isinstance(result, Call):
            result = forward.resume(attend_alone(result))


def _compare(recording: _Recording, model: PreTrainedModel, num_adapters: int) -> None:
    """Run it beside a plain pass. Raises Unrecordable where they differ by more than rounding."""
    rows = torch.arange(recording.num_rows, device=model.device)
    ids = rows % model.config.get_text_config().vocab_size
    hidden = make_hidden(model, len(rows), seed=1) if recording.receives else None
    adapters = rows % (num_adapters + 1) if num_adapters else None
    recording.take_in(ids, rows % 2, hidden, None, adapters)
    replayed = ReplayedPass(recording, len(rows), None, lambda _: None)
    plain = Pass(model, ids, rows % 2, rows, hidden, adapters=adapters)
    output, worst = None, torch.zeros((), device=model.device)
    while True:
        ours, own = replayed.resume(output), plain.resume(output)
        if isinstance(ours, Call) != isinstance(own, Call):
            raise Unrecordable("a pass calls attention more or less often than before")
        for mine, its in zip(_tensors(ours), _tensors(own), strict=True):
            worst = torch.maximum(worst, distance(mine, its))
        if not isinstance(own, Call):
            break
        output = attend_alone(own)
    if not worst <= _TOLERANCE.get(model.dtype, _HALF_TOLERANCE):
        raise Unrecordable(f"a replayed pass differs from a plain one by {float(worst):.2g}")


def _tensors(result: Call | torch.Tensor) -> tuple[torch.Tensor, ...]:
    return result[1:4] if isinstance(result, Call) else (result,)
