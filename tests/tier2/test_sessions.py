"""Sessions in any order on every backend, beside a plain model of the protocol.

The model knows what each message means in a few lines of plain tensors: whether it is in order,
what is kept after it and what is answered. A client says whatever comes to its mind, mostly in
order. What is in order is answered as the model says; what is not is a Fault that changes nothing;
and whatever was said, the worker serves the next client.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from glinthawk.core.drives import Drive
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.backends.fetched_pages import FetchedPages
from glinthawk.tier2.backends.storage import StorageBackend
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_files import PageFiles
from glinthawk.wire.messages import (
    VERSION,
    Abandon,
    Ask,
    Attend,
    Attended,
    Begin,
    BeginPart,
    Bye,
    Fault,
    Fetch,
    Fetched,
    FromTier1,
    Open,
    Opened,
    ReleaseKV,
    Spans,
    Stats,
    Store,
    Stored,
    View,
)
from session_model import Model, Step
from worker_talk import NONE, Talk


@dataclass(frozen=True)
class Place:
    """A backend, and how much of it there is."""

    head_dim: int = 32
    backend: str = "auto"
    num_pages: int = 24
    #: Of drives, in whose place there is so much memory.
    drive_bytes: int = 0
    memory: int = 0
    longest: int = 300
    examples: int = 30
    can_fetch: bool = True

    @property
    def layers(self) -> tuple[AttentionLayer, ...]:
        size = self.head_dim
        return (
            AttentionLayer(4, 2, size, size, 0.2),
            AttentionLayer(4, 2, size, size, 0.2, window=40, softcap=5.0),
            AttentionLayer(4, 2, size, size, 0.2, sinks=(0.5, -0.5, 0.0, 1.0)),
        )

    @property
    def parts(self) -> tuple[AttentionLayer, ...]:
        """Of a session with views."""
        size = self.head_dim
        return (AttentionLayer(4, 2, size, size, 0.2, softcap=5.0),) * 3


PLACES = {
    "memory": Place(),
    "drives": Place(drive_bytes=2 << 20, memory=1 << 20, longest=500, examples=40),
    "plain torch": Place(head_dim=12, can_fetch=False),
    "triton": Place(
        head_dim=8, backend="triton", num_pages=8, longest=70, examples=6, can_fetch=False
    ),
}
#: Which of two views each layer of a session with views has.
_VIEW_OF = [0, 1, 0]


class Sessions(RuleBasedStateMachine):
    """A worker, a client that says anything, and the model of its session."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.place = PLACES[name]
        self.folder = TemporaryDirectory(prefix="gt-drive-")
        drives = [Drive(Path(self.folder.name), self.place.drive_bytes)] * 2
        self.files = PageFiles(drives if self.place.drive_bytes else [])
        self.talk = Talk(self.place.layers, self.place.num_pages, files=self.files.__enter__())
        if self.place.memory:
            self.talk.worker._kv_bytes = self.place.memory
        self.talk.present = {b"first"}
        self.model: Model | None = None
        self.seed = 0
        self.last_step = 0

    def teardown(self) -> None:
        """Whoever comes next is served as if nothing had happened."""
        try:
            self.talk.present = {b"second"}
            self._open("plain", b"second")
            assert self.model is not None
            for step, (extends, prompts) in enumerate(
                [(NONE, Spans([7], [0], [70])), (Spans([7], [70], [1]), NONE)]
            ):
                self._begin(Begin(step, extends, prompts), b"second")
                self._finish(step, b"second")
            assert self.model.lengths == {7: 71}
        finally:
            self.files.close()
            self.folder.cleanup()

    @initialize(kind=st.sampled_from(["plain", "plain", "parts", "fetches"]))
    def open(self, kind: str) -> None:
        self._open(kind)

    @rule(kind=st.sampled_from(["plain", "parts", "fetches", "version", "layers", "head size"]))
    def open_again(self, kind: str) -> None:
        self._open(kind)

    def _open(self, kind: str, client: bytes = b"first") -> None:
        layers = self.place.parts if kind == "parts" else self.place.layers
        views, fetches = (_VIEW_OF if kind == "parts" else []), kind == "fetches"
        message = Open(VERSION, list(layers), "float32", "float32", views, fetches)
        ends = kind in ("parts", "plain", "fetches", "head size")
        refused = kind in ("version", "layers") or (fetches and not self.place.can_fetch)
        match kind:
            case "version":
                message = Open(VERSION - 1, list(layers), "float32", "float32")
            case "layers":
                message = Open(VERSION, [], "float32", "float32")
            case "head size":
                odd = AttentionLayer(4, 2, 260, 260, 0.2)
                message = Open(VERSION, [odd] * 3, "float32", "float32")
                refused = bool(self.place.drive_bytes) or self.place.backend == "triton"
        answer = self.talk.say(message, client=client)
        assert answer is not None
        if refused:
            self._assert_fault(answer)
            self.model = None if ends else self.model
            return
        assert isinstance(answer[0], Opened), answer[0]
        self.talk.layers = tuple(message.layers)
        self.most_sequences = answer[0].most_sequences
        can_fetch = self.place.can_fetch and kind not in ("head size", "parts")
        self.model = Model(tuple(message.layers), list(views), can_fetch)

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self._begin(self._any_begin(data.draw))

    @precondition(lambda self: self.model and self.model.resting)
    @rule(data=st.data(), length=st.sampled_from([1, 1, 1, 3, 33, 70]))
    def go_on(self, data: st.DataObject, length: int) -> None:
        """A step as it should be: some sequences that rest, one of which may begin another."""
        assert self.model is not None
        resting = self.model.resting
        chosen = data.draw(st.lists(st.sampled_from(resting), min_size=1, max_size=3, unique=True))
        rows = [(s, self.model.lengths[s], length) for s in chosen if self.model.lengths[s]]
        if rows:
            self.last_step += 1
            if self._begin(self._message(self.last_step, rows, [], [], None)):
                self._finish(self.last_step)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def prompt(self, data: st.DataObject) -> None:
        """A step as it should be: one more sequence."""
        assert self.model is not None
        length = data.draw(self._lengths())
        sequence = next(s for s in range(99) if s not in self.model.lengths)
        self.last_step += 1
        if self._begin(self._message(self.last_step, [], [(sequence, 0, length)], [], None)):
            self._finish(self.last_step)

    def _lengths(self) -> st.SearchStrategy[int]:
        most = self.place.longest
        return st.sampled_from([n for n in (1, 7, 32, 64, 70, 96, 130, 300, 500) if n <= most])

    def _any_begin(self, draw: st.DrawFn) -> Begin:
        """Likely steps, and some that cannot be."""
        known = {} if self.model is None else self.model.lengths
        step = draw(st.sampled_from([self.last_step + 1] * 4 + list(range(self.last_step + 1))))
        self.last_step = max(self.last_step, step)
        rows, prompts, forks = [], [], []
        for sequence in draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)):
            at = known.get(sequence, 0)
            kind = draw(st.sampled_from(["row", "row", "prompt", "fork"]))
            length = draw(st.sampled_from([1, 1, 32, 70]) if kind != "prompt" else self._lengths())
            if kind == "fork" and known:
                source = draw(st.sampled_from(sorted(known)))
                at = draw(st.integers(0, known[source] + 1))
                forks.append((source, sequence, at))
            if kind != "prompt":
                at += draw(st.sampled_from([0, 0, 0, 0, -1, -40, 1]))
            elif draw(st.booleans()):
                at = 0
            (prompts if kind == "prompt" else rows).append((sequence, max(at, 0), length))
        views = draw(st.none() | st.lists(self._view_rows(), min_size=1, max_size=3))
        return self._message(step, rows, prompts, forks, views)

    def _view_rows(self) -> st.SearchStrategy[list[tuple[int, int, int]]]:
        known = {} if self.model is None else self.model.lengths
        row = st.tuples(
            st.sampled_from([*known, 0]), st.sampled_from([0, 0, 1, 40]), st.integers(0, 130)
        )
        return st.lists(row, max_size=3)

    def _message(
        self,
        step: int,
        rows: list[tuple[int, int, int]],
        prompts: list[tuple[int, int, int]],
        forks: list[tuple[int, int, int]],
        views: list[list[tuple[int, int, int]]] | None,
    ) -> Begin:
        """With views that fit if none are given."""
        spans = [Spans(*([r[i] for r in some] for i in range(3))) for some in (rows, prompts)]
        if not (self.model and self.model.views):
            return Begin(step, spans[0], spans[1], forks)
        if views is None:
            whole = [
                (s, max(0, at + length - most), at + length)
                for most in (1 << 20, 40)
                for s, at, length in rows
            ]
            views = [whole[: len(rows)], whole[len(rows) :]] if rows else []
        columns = [View(*([r[i] for r in view] for i in range(3))) for view in views]
        return BeginPart(step, spans[0], spans[1], forks, columns)

    def _begin(self, message: Begin, client: bytes = b"first") -> bool:
        answer = self.talk.say(message, client=client)
        if self.model is None or not self.model.allows_begin(message):
            self._assert_fault(answer)
            return False
        if answer is not None:
            self._assert_no_room(message, self._assert_fault(answer))
            return False
        self.model.begin(message)
        return True

    def _assert_no_room(self, message: Begin, fault: Fault) -> None:
        assert self.model is not None
        if "fewer sequences" in fault.text:
            stepping = {s for step in self.model.steps.values() for s in step.members}
            stepping |= {*message.extends.sequences, *message.prompts.sequences}
            assert self.place.drive_bytes
            assert 2 * len(stepping) > self.most_sequences
        else:
            assert "pre-empt" in fault.text, fault.text
            assert self.model.most_pages(message) > self._cache.pages.num_pages

    @precondition(lambda self: self.model and self.model.steps)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """All that is left of a step, as it should be."""
        assert self.model is not None
        self._finish(data.draw(st.sampled_from(sorted(self.model.steps))))

    def _finish(self, number: int, client: bytes = b"first") -> None:
        assert self.model is not None
        while (step := self.model.steps.get(number)) is not None:
            layer = self.model.next_attended(step)
            if layer is not None:
                fetches = self.model.can_fetch and self.seed % 2 == 0
                self._parcel((Fetch if fetches else Attend)(number, layer), client=client)
            if self.model.has_prompts(step):
                self._parcel(Store(number, step.next_stored), client=client)

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        kind=st.sampled_from([Attend, Store, Fetch]),
        layer=st.sampled_from(["next"] * 6 + ["before", "after", -1, 3, 1 << 40]),
        sizes=st.sampled_from(["right"] * 8 + ["a row", "a byte", "one less", "one more", "none"]),
    )
    def parcel(self, data: st.DataObject, kind: type, layer: str | int, sizes: str) -> None:
        """One parcel of a step, mostly the next."""
        assert self.model is not None
        number = data.draw(st.sampled_from([*self.model.steps, *self.model.steps, 1000]))
        if isinstance(layer, str):
            step = self.model.steps.get(number)
            following = 0
            if step is not None:
                following = step.next_stored
                if kind is not Store:
                    following = self.model.next_attended(step) or step.next_attended
            layer = following + {"next": 0, "before": -1, "after": 1}[layer]
        self._parcel(kind(number, layer), sizes)

    def _parcel(
        self, message: Attend | Store | Fetch, sizes: str = "right", client: bytes = b"first"
    ) -> None:
        assert self.model is not None
        self.seed += 1
        step = self.model.steps.get(message.step)
        tensors = self._tensors(step, message)
        frames = [tensor.numpy().tobytes() for tensor in tensors]
        match sizes:
            case "a row":
                frames = [frame + frame[: 4 * self.place.head_dim] for frame in frames]
            case "a byte":
                frames = [frame[:-1] for frame in frames]
            case "one less":
                frames = frames[:-1]
            case "one more":
                frames.append(b"")
            case "none":
                frames = []
        answer = self.talk.say(message, *frames, client=client)
        if step is None or sizes != "right" or not self._is_next(step, message):
            self._assert_fault(answer)
        elif isinstance(message, Store):
            self.model.store(step, message.layer, *tensors)
            is_last = message.layer == len(self.model.layers) - 1
            assert answer == ((Stored(message.step), ()) if is_last else None)
        elif isinstance(message, Attend):
            expected = self.model.attend(step, message.layer, *tensors)
            self._assert_attended(message, answer, expected)
        else:
            self._assert_fetched(step, message, answer, *tensors)

    def _is_next(self, step: Step, message: Attend | Store | Fetch) -> bool:
        assert self.model is not None
        if isinstance(message, Store):
            return self.model.has_prompts(step) and message.layer == step.next_stored
        if isinstance(message, Fetch) and not self.model.can_fetch:
            return False
        return message.layer == self.model.next_attended(step)

    def _tensors(self, step: Step | None, message: Attend | Store | Fetch) -> list[torch.Tensor]:
        """What it should bring."""
        assert self.model is not None
        layer = self.model.layers[message.layer if 0 <= message.layer < 3 else 0]
        written = attending = 1
        if step is not None:
            spans = step.begin.prompts if isinstance(message, Store) else step.begin.extends
            written = sum(spans.lengths)
            attending = self.model.num_attending(step, self.model.layers.index(layer))
            if self.model.views and 0 <= message.layer < 3:
                attending = self.model.num_attending(step, message.layer)
        generator = torch.Generator().manual_seed(self.seed)
        kv = [
            torch.randn(written, layer.num_kv_heads, size, generator=generator)
            for size in (layer.head_dim, layer.value_dim)
        ]
        if not isinstance(message, Attend):
            return kv
        queries = torch.randn(attending, layer.num_heads, layer.head_dim, generator=generator)
        return [queries, *kv] if written else [queries]

    def _assert_attended(
        self, message: Attend, answer: object, expected: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        assert self.model is not None
        assert isinstance(answer, tuple) and isinstance(answer[0], Attended), answer
        assert (answer[0].step, answer[0].layer) == (message.step, message.layer)
        assert len(answer[1]) == (2 if self.model.views else 1)
        for frame, tensor in zip(answer[1], expected, strict=False):
            found = torch.frombuffer(bytearray(frame), dtype=torch.float32)
            torch.testing.assert_close(found, tensor.flatten(), atol=1e-4, rtol=1e-4)

    def _assert_fetched(
        self, step: Step, message: Fetch, answer: object, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Attention over what came back is what it should be."""
        assert self.model is not None
        assert isinstance(answer, tuple) and isinstance(answer[0], Fetched), answer
        spans, layer = step.begin.extends, self.model.layers[message.layer]
        queries = torch.ones(sum(spans.lengths), layer.num_heads, layer.head_dim)
        expected, _ = self.model.attend(step, message.layer, queries, keys, values)
        pages = FetchedPages(self.model.layers, "float32", threads=1)
        frames = [memoryview(bytearray(frame)) for frame in answer[1]]
        rows = pages.lay_out(spans.starts, spans.lengths)
        found = pages.attend(message.layer, rows, *frames, queries)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    @precondition(lambda self: self.model)
    @rule(sequences=st.lists(st.integers(0, 7) | st.sampled_from([-1, 1 << 60]), max_size=3))
    def release(self, sequences: list[int]) -> None:
        assert self.model is not None
        answer = self.talk.say(ReleaseKV(sequences))
        running = {number for step in self.model.steps.values() for number in step.members}
        if running & set(sequences):
            self._assert_fault(answer)
        else:
            assert answer is None
            self.model.release(sequences)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        assert self.model is not None
        step = data.draw(st.sampled_from([*self.model.steps, *self.model.steps, -1]))
        assert self.talk.say(Abandon(step)) is None
        self.model.abandon(step)

    @rule()
    def ask(self) -> None:
        answer = self.talk.say(Ask())
        if self.model is None:
            self._assert_fault(answer)
        else:
            assert answer is not None and isinstance(answer[0], Stats)

    @rule(
        data=st.data(), kind=st.sampled_from([Open, Begin, Attend, Store, ReleaseKV, Abandon, Bye])
    )
    def a_stranger_speaks(self, data: st.DataObject, kind: type) -> None:
        """While the session's client is there, others are refused."""
        if self.model is None:
            return
        said: dict[type, FromTier1] = {
            Open: Open(VERSION, list(self.place.layers), "float32", "float32"),
            Begin: Begin(self.last_step + 1, NONE, Spans([0], [0], [1])),
            Attend: Attend(self.last_step, 0),
            Store: Store(self.last_step, 0),
            ReleaseKV: ReleaseKV(list(self.model.lengths)),
            Abandon: Abandon(self.last_step),
            Bye: Bye(),
        }
        assert self._assert_fault(self.talk.say(said[kind], client=b"second")).refused

    @precondition(lambda self: self.model)
    @rule(sure=st.sampled_from([False, False, True]))
    def leave(self, sure: bool) -> None:
        if sure:
            assert self.talk.say(Bye()) is None
            self.model = None

    @precondition(lambda self: self.model is None)
    @rule(kind=st.sampled_from([Attend, Store, Fetch]))
    def a_parcel_without_a_session(self, kind: type) -> None:
        assert self._assert_fault(self.talk.say(kind(0, 0), b"")).refused

    @property
    def _cache(self) -> KVCache:
        assert self.talk.worker._session is not None
        return self.talk.worker._session.cache

    @invariant()
    def sums_hold(self) -> None:
        if self.model is None:
            assert self.talk.worker._session is None
            return
        pages = self._cache.pages
        pages._pages.validate()
        assert pages._tokens == self.model.lengths
        if isinstance(self._cache.backend, StorageBackend):
            self._cache.backend.validate()

    @staticmethod
    def _assert_fault(answer: object) -> Fault:
        """One that was foreseen."""
        assert isinstance(answer, tuple) and isinstance(answer[0], Fault), answer
        assert not answer[1]
        assert answer[0].text
        assert "unexpectedly" not in answer[0].text, answer[0].text
        assert "arithmetic" not in answer[0].text, answer[0].text
        return answer[0]


@contextmanager
def _backend(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if name != "auto":
            patch.setattr("glinthawk.tier2.session.KVCache", partial(KVCache, backend=name))
        yield


@pytest.mark.parametrize("name", PLACES)
def test_sessions_are_what_the_model_says(name: str) -> None:
    place = PLACES[name]
    if place.backend == "triton":
        if find_spec("triton") is None:
            pytest.skip("there is no Triton here")
        if torch.cuda.is_available():
            pytest.skip("where there is a GPU, Triton does not interpret")
    with _backend(place.backend):
        run_state_machine_as_test(
            partial(Sessions, name),
            settings=settings(
                max_examples=place.examples,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
