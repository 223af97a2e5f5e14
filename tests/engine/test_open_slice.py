"""In which order a later slice frees and shares KV, whatever order its hidden states come in."""

from types import SimpleNamespace
from typing import Any

import torch

from glinthawk.core.batch import Batch
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.open_slice import OpenSlice
from glinthawk.wire.control import Admitted, Cancel, Forget, Hidden, RunStep, StepRow

_WIDTH = 2


class _Node:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def homes(self) -> list[Any]:
        return []

    def start(self, batch: Batch, hidden: torch.Tensor) -> None:
        assert len(hidden) == batch.num_tokens
        self.told.append(("start", batch.id))

    def release(self, home: int, sequences: list[int]) -> None:
        self.told += [("release", sequence) for sequence in sequences]

    def abort(self, step: int) -> None:
        self.told.append(("abort", step))


def _open() -> tuple[OpenSlice, _Node]:
    node = _Node()
    loaded = SimpleNamespace(
        part=SimpleNamespace(is_first=False),
        model=SimpleNamespace(dtype=torch.float32, device=torch.device("cpu")),
        hidden_size=_WIDTH,
    )
    opened: Any = SimpleNamespace(node=node, loaded=loaded)
    return OpenSlice(opened, None, lambda _message: None), node


def _step(number: int, sequence: int, source: int | None = None) -> RunStep:
    request = Request(sequence, (1, 2, 3), SamplingParams(), 0, 9)
    row = StepRow(sequence, 1, 2 if source is not None else 0, 1, source, [], 1, 0)
    admitted = [Admitted(sequence, request, [])]
    return RunStep(number, admitted, [row], [])


def _hidden(slice_: OpenSlice, step: int) -> None:
    slice_.handle(Hidden(step), [memoryview(bytearray(4 * _WIDTH))])


def test_kv_that_a_step_will_share_is_freed_once_it_has_begun() -> None:
    part, node = _open()
    part.handle(_step(1, sequence=7, source=5), [])
    part.handle(Forget(1, [5]), [])
    part.handle(Forget(1, [6]), [])
    part.handle(_step(2, sequence=8), [])
    _hidden(part, 2)  # its pages may be those of 5 and 6
    assert node.told == []
    _hidden(part, 1)
    assert node.told == [("start", 1), ("release", 5), ("release", 6), ("start", 2)]


def test_what_no_step_shares_is_freed_at_once() -> None:
    part, node = _open()
    part.handle(_step(1, sequence=7, source=5), [])
    part.handle(Forget(1, [6]), [])
    _hidden(part, 1)
    assert node.told == [("release", 6), ("start", 1)]


def test_a_step_that_is_cancelled_holds_nothing() -> None:
    part, node = _open()
    part.handle(_step(1, sequence=7, source=5), [])
    part.handle(Forget(1, [5]), [])
    part.handle(Cancel(1), [])
    assert node.told == [("release", 5)]
