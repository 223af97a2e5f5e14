"""A replayed pass is a plain one, whatever else is under way; what cannot be replayed is plain."""

import gc
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from families import FAMILIES as ALL_FAMILIES
from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.slices import split_layers
from glinthawk.tier1.forward.cut import Call, Forward, Pass, make_hidden
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.forward.graphs import BUCKETS, GraphedPasses, ReplayedPass
from glinthawk.tier1.forward.recording import CudaRecorder, Recorder
from glinthawk.tier1.model.loader import LoadedModel, load_model
from length_rotations import ROTATIONS
from replay_recorder import TapeRecorder

FAMILIES = ["llama", "gemma2", "opt", "phi3", "mixtral", "gpt_oss", "deepseek_v3"]
MOST_ROWS = 19


def _load(folder: Path, family: str, device: str = "cpu") -> LoadedModel:
    return load_model(EngineConfig(model=str(make_model(folder, family)), device=device))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return _load(tmp_path_factory.mktemp("models"), "llama")


class Twins:
    """A pass of random rows and a plain one of the same, step by step."""

    def __init__(self, loaded: LoadedModel, passes: GraphedPasses, num_rows: int, seed: int):
        self._random = torch.Generator().manual_seed(seed)
        device = loaded.model.device
        ids = self._draw(num_rows, loaded.spec.vocab_size).to(device)
        positions = self._draw(num_rows, min(500, loaded.spec.max_model_len)).to(device)
        kept = torch.arange(num_rows)
        if seed % 2:  # as in a batch with prompts
            kept = kept[torch.rand(num_rows, generator=self._random) < 0.5]
        hidden = None if loaded.part.is_first else make_hidden(loaded.model, num_rows, seed)
        columns = ids, positions, kept.to(device), hidden, _lengths(loaded, positions)
        self.ours = passes(*columns)
        self.own = Pass(loaded.model, *columns)
        self.num_rows = num_rows
        self._output: torch.Tensor | None = None

    def _draw(self, num_rows: int, end: int) -> torch.Tensor:
        return torch.randint(end, (num_rows,), generator=self._random)

    def step(self) -> bool:
        """Run both to their next stop; whether they can go on."""
        ours, own = self.ours.resume(self._output), self.own.resume(self._output)
        assert self.ours.depth == self.own.depth
        for mine, its in zip(_tensors(ours), _tensors(own), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-4)
        if not isinstance(own, Call):
            return False
        shape = (self.num_rows, own.queries.shape[1], own.values.shape[-1])
        self._output = torch.randn(shape, generator=self._random).to(own.queries)
        return True

    def close(self) -> None:
        self.ours.close()
        self.own.close()


def _lengths(loaded: LoadedModel, positions: torch.Tensor) -> torch.Tensor | None:
    """Of sequences that end here, or some tokens behind."""
    rope = loaded.spec.rope
    lengths = positions + 1 + 7 * (positions % 3)
    return None if rope is None else lengths.clamp(max=loaded.spec.max_model_len)


def _tensors(result: Call | torch.Tensor) -> list[torch.Tensor]:
    return list(result[1:4]) if isinstance(result, Call) else [result]


#: Start a pass of so many rows, or go on with, or close, one of those under way.
_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(1, MOST_ROWS)),
        st.tuples(st.just("step"), st.integers(0, 3)),
        st.tuples(st.just("step"), st.integers(0, 3)),
        st.tuples(st.just("close"), st.integers(0, 3)),
    ),
    min_size=5,
    max_size=40,
)


class Play:
    """Carries actions out on up to four passes at a time."""

    def __init__(self, loaded: LoadedModel, passes: GraphedPasses, seed: int) -> None:
        self._loaded, self._passes, self._seed = loaded, passes, seed
        self._live: list[Twins] = []
        #: Most passes of each bucket that were under way at one time.
        self.most: Counter[int] = Counter()

    @torch.inference_mode()
    def run(self, actions: list[tuple[str, int]]) -> None:
        for name, number in actions:
            if name == "start" and len(self._live) < 4:
                self._start(number)
            elif name != "start" and self._live:
                twins = self._live[number % len(self._live)]
                if name == "close" or not twins.step():
                    self._close(twins)
        for twins in list(self._live):
            while twins.step():
                pass
            self._close(twins)

    def _start(self, num_rows: int) -> None:
        self._seed += 1
        self._live.append(Twins(self._loaded, self._passes, num_rows, self._seed))
        self.most |= Counter(_bucket(twins.num_rows) for twins in self._live)

    def _close(self, twins: Twins) -> None:
        twins.close()
        self._live.remove(twins)


def _bucket(num_rows: int) -> int:
    return next(bucket for bucket in BUCKETS if bucket >= num_rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_passes_equal_plain_ones(tmp_path: Path, family: str) -> None:
    loaded = _load(tmp_path, family)
    _compare_on(loaded, TapeRecorder)


@pytest.mark.parametrize("family", sorted(ALL_FAMILIES.keys() - {"gpt2"}))
@torch.inference_mode()
def test_a_recording_owns_what_it_reads(tmp_path: Path, family: str) -> None:
    """All that its operations read and none made: the tape only borrows it, so that it is gone
    unless the recording, or the model, keeps it. (GPT-2 reads values, so it is not recorded.)"""
    loaded = _load(tmp_path, family)
    passes = GraphedPasses(loaded.model, TapeRecorder())
    twins = Twins(loaded, passes, 4, seed=1)
    assert isinstance(twins.ours, ReplayedPass)
    gc.collect()
    while twins.step():
        pass
    twins.close()


@pytest.mark.parametrize("rotation", ["phi3", "longrope", "dynamic"])
def test_replayed_rows_are_rotated_by_their_own_length(tmp_path: Path, rotation: str) -> None:
    family, others = ROTATIONS[rotation]
    path = make_model(tmp_path, family, **others)
    loaded = load_model(EngineConfig(model=str(path)))
    assert loaded.spec.rope is not None
    passes = GraphedPasses(loaded.model, TapeRecorder(), has_lengths=True)
    with torch.inference_mode():
        twins = Twins(loaded, passes, 13, seed=1)
        assert isinstance(twins.ours, ReplayedPass)
        while twins.step():
            pass
        twins.close()
    _compare_on(loaded, TapeRecorder)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_replayed_slices_equal_plain_ones(tmp_path: Path, family: str, number: int) -> None:
    config = EngineConfig(model=str(make_model(tmp_path, family)))
    _compare_on(load_model(config, split_layers(3, 3)[number]), TapeRecorder)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_passes_equal_plain_ones_on_a_gpu(tmp_path: Path, family: str) -> None:
    loaded = _load(tmp_path, family, "cuda")
    _compare_on(loaded, lambda: CudaRecorder(loaded.model.device))


def _compare_on(loaded: LoadedModel, make: Callable[[], Recorder]) -> None:
    #: One for all examples: what a pass leaves behind must not show in the next.
    recorder = make()
    has_lengths = loaded.spec.rope is not None
    passes = GraphedPasses(loaded.model, recorder, loaded.part, has_lengths)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_ACTIONS, st.integers(0, 2**31))
    def compare(actions: list[tuple[str, int]], seed: int) -> None:
        Play(loaded, passes, seed).run(actions)

    compare()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ACTIONS)
def test_there_are_as_many_recordings_as_passes_under_way(
    llama: LoadedModel, actions: list[tuple[str, int]]
) -> None:
    recorder = TapeRecorder()
    play = Play(llama, GraphedPasses(llama.model, recorder), 0)
    play.run(actions)
    assert recorder.num_pools == play.most.total()
    assert recorder.num_pieces == recorder.num_pools * (len(llama.spec.layers) + 1)


def _rows(num_rows: int) -> list[torch.Tensor]:
    return [torch.arange(num_rows) for _ in range(3)]


def _new_pass(passes: GraphedPasses, num_rows: int) -> Forward:
    return passes(*_rows(num_rows))


def test_closing_twice_gives_back_once(llama: LoadedModel) -> None:
    recorder = TapeRecorder()
    passes = GraphedPasses(llama.model, recorder)
    forward = _new_pass(passes, 3)
    forward.close()
    forward.close()
    both = [_new_pass(passes, 3) for _ in range(2)]
    assert recorder.num_pools == 2
    for forward in both:
        forward.close()


def test_large_passes_are_plain(llama: LoadedModel) -> None:
    recorder = TapeRecorder()
    assert isinstance(_new_pass(GraphedPasses(llama.model, recorder), BUCKETS[-1] + 1), Pass)
    assert recorder.num_pools == 0


def test_rows_of_no_numbers_spoil_no_later_pass(llama: LoadedModel) -> None:
    """Memory behind a short pass's rows is what a longer one left there."""
    passes = GraphedPasses(llama.model, TapeRecorder())
    layer = llama.spec.layers[0]
    with torch.inference_mode():
        forward = _new_pass(passes, 4)
        forward.resume(None)
        forward.resume(torch.full((4, layer.num_heads, layer.value_dim), float("nan")))
        forward.close()
        twins = Twins(llama, passes, 3, seed=0)
        while twins.step():
            pass
        assert isinstance(twins.ours, ReplayedPass)
        kept = twins.ours._recording._pieces[-1][1]  # type: ignore[union-attr]
        assert kept.isfinite().all()  # type: ignore[union-attr]


def test_measuring_goes_through_what_runs(llama: LoadedModel) -> None:
    recorder = TapeRecorder()
    passes = GraphedPasses(llama.model, recorder)
    measured = DensePass(llama.model, llama.spec.layers, 5, passes)
    plain = DensePass(llama.model, llama.spec.layers, 5)
    torch.testing.assert_close(measured(), plain(), atol=1e-4, rtol=1e-4)
    before = recorder.num_replays
    measured()
    assert recorder.num_pools == 1
    assert recorder.num_replays == before + len(llama.spec.layers) + 1


# What cannot be replayed.


def _hook(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    return lambda _module, inputs: (change(inputs[0]), *inputs[1:])


def _branch(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * 2 if bool(hidden.sum() > 0) else hidden


def _item(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * hidden.abs().max().item()


def _list(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * max(hidden.flatten().tolist())


def _nonzero(hidden: torch.Tensor) -> torch.Tensor:
    rows = (hidden[..., 0] > 0).nonzero()
    return hidden + len(rows)


def _mask(hidden: torch.Tensor) -> torch.Tensor:
    return hidden + hidden[hidden > 0].sum()


def _fail(hidden: torch.Tensor) -> torch.Tensor:
    if len(hidden[0]) == 4:  # of no sequence here, but of the bucket that holds 3
        raise ValueError("not four\nat any time")
    return hidden


def _make_counter() -> Callable[[torch.Tensor], torch.Tensor]:
    calls = SimpleNamespace(count=0)

    def count(hidden: torch.Tensor) -> torch.Tensor:
        calls.count += 1
        return hidden * calls.count

    return count


@pytest.fixture
def changed(llama: LoadedModel, request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """A model whose second layer's input goes through a function."""
    layer = llama.model.model.layers[1]
    hook = layer.register_forward_pre_hook(_hook(request.param))
    yield llama.model
    hook.remove()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (_branch, "is_nonzero"),
        (_item, "item"),
        (_list, "resolve_neg"),
        (_nonzero, "nonzero"),
        (_mask, "index"),
        (_fail, "not four$"),
        (_make_counter(), "differs from a plain one"),
    ],
    indirect=["changed"],
)
def test_what_depends_on_values_runs_plainly_from_then_on(
    changed: PreTrainedModel, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    passes = GraphedPasses(changed, TapeRecorder())
    with caplog.at_level(logging.WARNING):
        plain = [_new_pass(passes, num_rows) for num_rows in (3, 3, 1)]
    assert all(isinstance(forward, Pass) for forward in plain)
    (record,) = caplog.records
    assert re.search(f"without CUDA graphs: .*{reason}", record.message)
    with torch.inference_mode():
        assert isinstance(plain[0].resume(None), Call)  # and that runs
    for forward in plain:
        forward.close()


def test_a_pass_that_ends_early_is_not_replayed(
    llama: LoadedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other pass leaves out a layer."""
    layers = llama.model.model.layers
    own, calls = layers[1].forward, SimpleNamespace(count=0)

    def leave_out(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.count += 1
        return hidden if calls.count % 2 else own(hidden, *args, **kwargs)

    monkeypatch.setattr(layers[1], "forward", leave_out)
    with caplog.at_level(logging.WARNING):
        assert isinstance(_new_pass(GraphedPasses(llama.model, TapeRecorder()), 2), Pass)
    assert "more or less often" in caplog.text
