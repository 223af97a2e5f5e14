"""In passes of which sizes a row comes to the same bits.

This is asked of the model on this machine: which kernel a size leads to is nowhere written.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from glinthawk import _native
from glinthawk.core.errors import UnsupportedModel
from glinthawk.tier1.forward.cut import Call, Pass, Passes, attend_alone, make_hidden
from glinthawk.tier1.forward.invariant import InvariantPasses
from glinthawk.tier1.model.loader import LoadedModel

__all__ = ["Agreement", "agree"]

#: Rows of the passes whose bits are the right ones. Fewer would read the weights too often, more
#: would make small batches slow.
_RIGHT_ROWS = {"cpu": 64, "cuda": 256}
#: Other sizes, which are used where they agree.
_SIZES = (
    *(16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *(640, 768, 896, 1024, 1536, 2048),
)
#: Comparing stops after so long; larger sizes are not used then.
_BUDGET_S = 4.0
_MOST_POSITIONS = 4096


@dataclass(frozen=True, slots=True)
class Agreement:
    """Passes whose rows do not depend on each other, and what their bits do depend on."""

    passes: InvariantPasses
    sizes: tuple[int, ...]
    #: Library and processor, and threads where their number matters.
    arithmetic: str


@torch.inference_mode()
def agree(loaded: LoadedModel, passes: Passes | None = None) -> Agreement:
    """Find the sizes of passes that agree with one another bit by bit. ``passes`` makes the passes;
    None: as transformers runs them.

    The model is loaded for a batch-invariant run. Raises UnsupportedModel for one in which rows of
    a pass depend on each other.
    """
    probe = _Probe(loaded, passes or partial(Pass, loaded.model))
    right = probe.right_rows
    alone = probe.run(torch.arange(2 * right), (right,))
    probe.check_company(alone)
    sizes = tuple(_agreeing(probe, alone))
    return Agreement(probe.make(sizes), sizes, _describe(loaded, probe, alone))


class _Probe:
    """Rows at random, twice as many as the right size has, and what passes make of them."""

    def __init__(self, loaded: LoadedModel, passes: Passes) -> None:
        model = loaded.model
        self.right_rows = _RIGHT_ROWS[model.device.type]
        self._loaded, self._passes = loaded, passes
        generator = torch.Generator().manual_seed(0)
        shape = (2 * self.right_rows,)
        longest = min(loaded.spec.max_model_len, _MOST_POSITIONS)
        self._ids = torch.randint(loaded.spec.vocab_size, shape, generator=generator)
        self._positions = torch.randint(longest, shape, generator=generator)
        self._lengths = (self._positions + 1).clamp(min=longest // 2)
        num_adapters = loaded.num_adapters
        self._adapters = torch.arange(*shape) % (num_adapters + 1) if num_adapters else None
        self._hidden = None if loaded.part.is_first else make_hidden(model, *shape)

    def make(self, sizes: tuple[int, ...]) -> InvariantPasses:
        """Passes of these sizes alone."""
        loaded = self._loaded
        gives_hidden = not loaded.part.is_last
        return InvariantPasses(self._passes, sizes, gives_hidden, loaded.spreads_experts)

    def run(self, rows: torch.Tensor, sizes: tuple[int, ...]) -> list[torch.Tensor]:
        """q, k, v of every layer and the logits, or the hidden state: all of them (T, ...), for the
        rows with these numbers."""
        device = self._loaded.model.device
        columns = self._ids, self._positions, self._lengths
        ids, positions, lengths = (column[rows].to(device) for column in columns)
        hidden = None if self._hidden is None else self._hidden[rows.to(device)]
        keep = torch.arange(len(rows), device=device)
        adapters = None if self._adapters is None else self._adapters[rows].to(device)
        passes, found = self.make(sizes), []
        forward = passes(ids, positions, keep, hidden, lengths, adapters=adapters)
        result = forward.resume(None)
        while isinstance(result, Call):
            found += [rows[0].transpose(0, 1).clone() for rows in result[1:4]]
            result = forward.resume(attend_alone(result))
        forward.close()
        return [*found, result.clone()]

    def check_company(self, alone: list[torch.Tensor]) -> None:
        """Raise UnsupportedModel if other neighbours or another place in a pass of the right size
        change a row."""
        for rows in self._companies():
            place = _first_difference(alone, self.run(rows, (self.right_rows,)), rows)
            if place is not None:
                raise UnsupportedModel(
                    "--batch-invariant: rows that run together change one another's numbers, "
                    f"{self._name(place)}; leave it out"
                )

    def _companies(self) -> Iterator[torch.Tensor]:
        """Numbers of rows: in another order and beside others, and a few beside many equal ones,
        which all choose the same experts."""
        right = self.right_rows
        generator = torch.Generator().manual_seed(1)
        yield torch.randperm(2 * right, generator=generator)
        for few in (1, 2, 5):
            yield torch.arange(right).where(torch.arange(right) < few, torch.tensor(right))

    def _name(self, place: int) -> str:
        layer = place // 3
        is_last = layer == len(self._loaded.spec.layers)
        return "behind the last layer" if is_last else f"before the attention of layer {layer}"


def _agreeing(probe: _Probe, alone: list[torch.Tensor]) -> Iterator[int]:
    """The right size, and those that agree with it."""
    begun, row_s = time.monotonic(), 0.0
    for size in sorted({*_SIZES, probe.right_rows}):
        if size == probe.right_rows:
            yield size
            continue
        before = time.monotonic()
        if before + size * row_s > begun + _BUDGET_S:
            continue
        rows = torch.arange(size) % (2 * probe.right_rows)
        if _first_difference(alone, probe.run(rows, (size,)), rows) is None:
            yield size
        row_s = (time.monotonic() - before) / size


def _first_difference(
    alone: list[torch.Tensor], found: list[torch.Tensor], rows: torch.Tensor
) -> int | None:
    """Which of the tensors is the first whose ``rows`` are not the same bits."""
    for place, (right, other) in enumerate(zip(alone, found, strict=True)):
        if not torch.equal(_bits(right[rows.to(right.device)]), _bits(other)):
            return place
    return None


def _bits(numbers: torch.Tensor) -> torch.Tensor:
    """Not-a-numbers are equal where their bits are."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return numbers.contiguous().view(kinds[numbers.element_size()])


def _describe(loaded: LoadedModel, probe: _Probe, alone: list[torch.Tensor]) -> str:
    device = loaded.model.device
    if device.type == "cuda":
        return f"torch {torch.__version__} on {torch.cuda.get_device_name(device)}"
    text = f"torch {torch.__version__} on {_native.supported_isas()[-1]}"
    if _threads_matter(probe, alone):
        text += f", {torch.get_num_threads()} threads"
    return text


def _threads_matter(probe: _Probe, alone: list[torch.Tensor]) -> bool:
    """Whether one thread comes to other bits than all cores, or than the threads that there are."""
    rows, now = torch.arange(probe.right_rows), torch.get_num_threads()
    for threads in {1, len(os.sched_getaffinity(0))} - {now}:
        with _threads(threads):
            found = probe.run(rows, (probe.right_rows,))
        if _first_difference(alone, found, rows) is not None:
            return True
    return False


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
