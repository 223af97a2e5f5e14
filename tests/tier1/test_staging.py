"""A message leaves when its bytes are there, behind all before it; nobody waits for that."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster import IDENTITY, open_cluster, pages_bytes, worker_thread
from delayed_staging import LateCopy, LateStaging
from families import make_model
from glinthawk.core.batch import Batch, Span
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.core.spec import AttentionLayer, ModelSpec
from glinthawk.engine.local_node import LocalNode
from glinthawk.engine.run import Run
from glinthawk.tier1.device.staging import CudaStaging, HostStaging, Outbox, make_staging, upload
from glinthawk.tier1.forward.graphs import GraphedPasses
from glinthawk.tier1.kv.remote import RemoteHome
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier1.node import Node
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.credit import Window
from glinthawk.wire.messages import Abandon, Attend, Begin, ReleaseKV, Store
from replay_recorder import TapeRecorder

CPU = torch.device("cpu")


class Scribe:
    """An outbox, what was put into it and has not left, and what left."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.waiting: list[tuple[int, int, LateCopy | None]] = []
        self.sent: list[int] = []
        self.dropped: set[int] = set()
        self.num_put = 0

    def put(self, step: int, *, is_copied: bool) -> None:
        number, copied = self.num_put, LateCopy([]) if is_copied else None
        self.num_put += 1
        self.waiting.append((number, step, copied))
        self.outbox.put(lambda: self._leave(number), 1, copied, step if is_copied else None)

    def _leave(self, number: int) -> None:
        first, _, copied = self.waiting.pop(0)
        assert first == number
        assert copied is None or copied.has_happened
        self.sent.append(number)

    def happen(self, index: int) -> None:
        copies = [copied for _, _, copied in self.waiting if copied is not None]
        if copies:
            copies[index % len(copies)].synchronize()

    def drop(self, step: int) -> None:
        gone = [number for number, of, copied in self.waiting if of == step and copied is not None]
        self.dropped.update(gone)
        self.waiting = [entry for entry in self.waiting if entry[0] not in gone]
        self.outbox.drop(step)


_EVENTS = st.lists(
    st.tuples(st.sampled_from(["put", "copy", "happen", "flush", "drop"]), st.integers(0, 4)),
    max_size=40,
)


@given(_EVENTS)
def test_messages_leave_in_order_and_none_before_its_bytes(events: list[tuple[str, int]]) -> None:
    scribe = Scribe()
    for name, number in events:
        match name:
            case "put" | "copy":
                scribe.put(number, is_copied=name == "copy")
            case "happen":
                scribe.happen(number)
            case "flush":
                assert scribe.outbox.flush() == bool(scribe.waiting)
                assert not scribe.waiting or not scribe.waiting[0][2].query()  # type: ignore[union-attr]
            case "drop":
                scribe.drop(number)
    assert not scribe.outbox.flush(wait=True)
    assert scribe.sent == sorted(set(range(scribe.num_put)) - scribe.dropped)


def test_what_was_cleared_never_leaves() -> None:
    scribe = Scribe()
    scribe.put(0, is_copied=True)
    scribe.put(0, is_copied=False)
    scribe.outbox.clear()
    scribe.happen(0)
    assert not scribe.outbox.flush(wait=True)
    assert not scribe.sent


def test_bytes_in_the_hosts_memory_are_not_copied() -> None:
    staging = make_staging(CPU)
    assert isinstance(staging, HostStaging)
    tensor = torch.arange(6.0).view(2, 3)
    (frame, turned), copied = staging.copy_out([tensor, tensor.t()])
    assert copied is None
    tensor[0, 0] = 7.0
    assert staging.copy_in(frame, torch.float32, (2, 3))[0, 0] == 7.0
    assert staging.copy_in(turned, torch.float32, (3, 2)).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_numbers_are_uploaded_as_they_are() -> None:
    assert torch.equal(upload([3, 1, 2], CPU), torch.tensor([3, 1, 2]))


# A home.


class Wire:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, list[bytes]]] = []
        self.window = Window()

    def send(self, message: Any, frames: Sequence[memoryview] = ()) -> int:
        self.sent.append((message, [bytes(frame) for frame in frames]))
        return 10 + sum(frame.nbytes for frame in frames)


class Gate:
    """Copies wait until it is opened."""

    def __init__(self) -> None:
        self.is_open = False

    def __call__(self) -> bool:
        return self.is_open


LAYER = AttentionLayer(2, 1, 4, 4, 0.5)
SPEC = ModelSpec("none", "float32", 10, 64, (LAYER,))


def _span(number: int, start: int, length: int) -> Span:
    request = Request(number, (5,) * (start + length), SamplingParams(), seed=0, max_tokens=8)
    return Span(TokenSequence(request), 1, start, length)


def test_an_abandoned_step_sends_nothing_more_and_delays_nobody() -> None:
    gate, wire = Gate(), Wire()
    home = RemoteHome(1, wire, SPEC, CPU, LateStaging(gate))  # type: ignore[arg-type]
    q, k = torch.randn(1, 2, 4), torch.randn(1, 1, 4)
    home.begin(0, [_span(0, 3, 1)], [])
    home.attend(0, 0, q, k, k)
    home.begin(1, [], [_span(1, 0, 1)])
    home.store(1, 0, k, 2 * k)
    home.release([7])
    assert [type(message) for message, _ in wire.sent] == [Begin]
    home.abandon(0)
    assert [type(message) for message, _ in wire.sent] == [Begin, Begin]
    gate.is_open = True
    assert not home.flush()
    kinds = [type(message) for message, _ in wire.sent]
    assert kinds == [Begin, Begin, Store, ReleaseKV, Abandon]
    assert wire.sent[2][1] == [bytes(frame) for frame in HostStaging().copy_out([k, 2 * k])[0]]
    assert home.link.traffic.decode_bytes_out == 10
    assert home.link.traffic.prefill_bytes == 10 + 10 + 2 * 16


def test_what_is_counted_is_what_left() -> None:
    gate, wire = Gate(), Wire()
    home = RemoteHome(1, wire, SPEC, CPU, LateStaging(gate))  # type: ignore[arg-type]
    home.begin(0, [_span(0, 3, 1)], [])
    home.attend(0, 0, torch.randn(1, 2, 4), torch.randn(1, 1, 4), torch.randn(1, 1, 4))
    assert home.link.traffic.decode_bytes_out == 10
    gate.is_open = True
    assert not home.flush()
    assert type(wire.sent[-1][0]) is Attend
    assert home.link.traffic.decode_bytes_out == 10 + 10 + 4 * (8 + 4 + 4)


# A node.


def _node(run: Run) -> Node:
    assert isinstance(run.tier1, LocalNode)
    return run.tier1.node


def _step(run: Run, sequences: list[TokenSequence]) -> None:
    """Start the next step of each sequence, as the batch with its number, at a home of its own."""
    for number, sequence in enumerate(sequences):
        if sequence.output:
            spans = (Span(sequence, 1 + number, sequence.length - 1, 1),)
            _node(run).start(Batch(number, spans, ()))
        else:
            span = Span(sequence, 1 + number, 0, sequence.length)
            _node(run).start(Batch(number, (), (span,)))


def _poll(run: Run, sequences: list[TokenSequence]) -> list[int]:
    """Batches that are done; their tokens are taken over."""
    done = _node(run).poll()
    for batch, (((choice,),), *_) in done:  # type: ignore[misc]
        sequences[batch.id].output.append(choice.token)
    return [batch.id for batch, _ in done]


def test_other_batches_go_on_while_one_is_copied(tmp_path: Path) -> None:
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path, "llama")), device="cpu"))
    gate = Gate()
    stagings = iter([LateStaging(gate), HostStaging()])
    sequences = [
        TokenSequence(Request(i, (5, 6 + i, 7), SamplingParams(temperature=0), 0, 8))
        for i in range(2)
    ]
    with open_cluster(loaded, tmp_path, workers=2, staging=lambda: next(stagings)) as run:
        for _ in range(3):  # a prompt, then decode rows
            gate.is_open = False
            _step(run, sequences)
            while not (done := _poll(run, sequences)):
                pass
            assert done == [1]
            gate.is_open = True
            while not (done := _poll(run, sequences)):
                pass
            assert done == [0]


def test_an_aborted_step_may_begin_again(tmp_path: Path) -> None:
    """In the memory of a replayed pass that others have used since."""
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path, "llama")), device="cpu"))
    tokens = []
    for aborts in (False, True):
        gate, recorder = Gate(), TapeRecorder()
        stagings = iter([LateStaging(gate), HostStaging()])
        sequences = [
            TokenSequence(Request(i, (5, 6 + i, 7), SamplingParams(temperature=0), 0, 8))
            for i in range(2)
        ]
        with open_cluster(
            loaded,
            tmp_path,
            workers=2,
            staging=lambda: next(stagings),  # noqa: B023
            passes=GraphedPasses(loaded.model, recorder),
        ) as run:
            for step in range(4):
                gate.is_open = not aborts
                _step(run, sequences)
                while len(sequences[1].output) == step:
                    _poll(run, sequences)
                if aborts:
                    _node(run).abort(0)
                    _step(run, sequences)
                    _node(run).abort(1)
                    gate.is_open = True
                while len(sequences[0].output) == step:
                    _poll(run, sequences)
        assert recorder.num_pools <= 4  # two passes at a time, of two sizes
        tokens.append([sequence.output for sequence in sequences])
    assert tokens[0] == tokens[1]


def test_asking_a_worker_waits_for_what_is_copied(tmp_path: Path) -> None:
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path, "llama")), device="cpu"))
    layer, staging = loaded.spec.layers[0], LateStaging(Gate())
    sequence = TokenSequence(Request(0, (5, 6, 7), SamplingParams(), 0, 8))
    with (
        worker_thread("inproc", tmp_path, pages_bytes(loaded, 64)) as address,
        ClientChannel(address, IDENTITY) as channel,
    ):
        home = RemoteHome(1, channel, loaded.spec, CPU, staging)
        home.open("float32")
        home.await_open(10)
        home.begin(0, [], [Span(sequence, 1, 0, 3)])
        home.store(0, 0, *(torch.randn(3, layer.num_kv_heads, 16) for _ in range(2)))
        assert home.flush()
        assert home.link.ask(10).kv_bytes_peak > 0
        assert not home.flush()
        home.close()


# A GPU.


@pytest.mark.gpu
def test_a_gpus_tensors_travel_and_come_back() -> None:
    device = torch.device("cuda")
    staging = make_staging(device)
    assert isinstance(staging, CudaStaging)
    for number in range(50):
        rows = torch.full((257, 8, 64), float(number), device=device, dtype=torch.bfloat16)
        rows = rows @ torch.eye(64, device=device, dtype=torch.bfloat16)  # is still computed
        turned = rows.transpose(0, 1)
        frames, copied = staging.copy_out([rows, turned])
        del rows, turned
        torch.full((257, 8, 64), -1.0, device=device, dtype=torch.bfloat16)  # may take its memory
        copied.synchronize()
        back = [
            staging.copy_in(frame, torch.bfloat16, shape)
            for frame, shape in zip(frames, [(257, 8, 64), (8, 257, 64)], strict=True)
        ]
        assert all(bool((tensor == number).all()) for tensor in back)


@pytest.mark.gpu
def test_frames_from_a_gpu_outlive_the_pool_that_they_came_from() -> None:
    """Freed by another thread, as ZeroMQ does it."""
    staging = make_staging(torch.device("cuda"))
    for number in range(20):
        frames, copied = staging.copy_out([torch.full((1 << 20,), float(number), device="cuda")])
        assert copied is not None
        copied.synchronize()
        assert torch.frombuffer(frames[0], dtype=torch.float32).eq(number).all()
        thread = threading.Thread(target=frames.clear)
        thread.start()
        thread.join()
