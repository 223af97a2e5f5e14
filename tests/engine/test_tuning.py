"""What is auto is measured; what the user said stays."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.engine.pipeline_facts import choose_limits
from glinthawk.engine.tuning import tune
from glinthawk.scheduler.batch_limits import MOST_IN_FLIGHT, DraftLimits, batches_to_hide
from glinthawk.tier1.forward.dense_pass import DensePass
from glinthawk.tier1.model.loader import load_model
from glinthawk.wire.control import Loaded


@given(st.floats(0, 10, allow_nan=False), st.floats(1e-6, 10), st.floats(0, 10, allow_nan=False))
def test_a_slower_link_never_asks_for_fewer_batches(
    link_s: float, dense_s: float, more: float
) -> None:
    count = batches_to_hide(link_s, dense_s)
    assert 2 <= count <= batches_to_hide(link_s + more, dense_s) <= MOST_IN_FLIGHT
    if count < 16:  # while one batch is away, the others keep Tier 1 busy
        assert (count - 1) * dense_s >= link_s


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_batch_may_have_more_rows_than_the_model_has_positions(
    tmp_path: Path, family: str
) -> None:
    loaded = load_model(EngineConfig(model=str(make_model(tmp_path, family))))
    rows = 2 * loaded.spec.max_model_len
    logits = DensePass(loaded.model, loaded.spec.layers, rows)()
    assert logits.shape == (rows, loaded.spec.vocab_size)


@pytest.mark.parametrize("batch_size", ["auto", 7, 64])
@pytest.mark.parametrize("in_flight", ["auto", 3])
def test_what_is_said_is_kept(tmp_path: Path, batch_size: int | str, in_flight: int | str) -> None:
    path = str(make_model(tmp_path, "llama"))
    config = EngineConfig(
        model=path, batch_size=batch_size, batches_in_flight=in_flight, batch_tokens=128
    )
    limits = tune(config, load_model(config), []).limits
    assert limits.batch_tokens == 128
    assert 1 <= limits.batch_size <= 128
    assert batch_size in ("auto", limits.batch_size)
    assert limits.batches_in_flight == (1 if in_flight == "auto" else 3)


def test_what_drafts_cost_is_measured_where_they_shall_pay(tmp_path: Path) -> None:
    path = str(make_model(tmp_path, "llama"))
    drafts = {}
    for mode in ("off", "prompt-lookup", "auto"):
        config = EngineConfig(model=path, batch_size=3, speculation=mode, num_speculative_tokens=4)  # type: ignore[arg-type]
        drafts[mode] = tune(config, load_model(config), []).limits.drafts
    assert drafts["off"] is None
    assert drafts["prompt-lookup"] == DraftLimits(4)
    measured = drafts["auto"]
    assert measured is not None
    assert measured.dense is not None
    rows, seconds = zip(*measured.dense, strict=True)
    assert rows == (1, 2, 4, 8, 15)[: len(rows)]  # 3 rows with 4 tokens each are 15
    assert list(seconds) == sorted(seconds)


def test_drafts_of_a_pipeline_are_as_long_as_its_slowest_slice_says() -> None:
    config = EngineConfig(model="demo", speculation="auto")
    curves = ((1, 1.0), (2, 1.5)), ((1, 3.0), (2, 3.5))
    loaded = [
        Loaded(99, 300, "float32", 4, (), 0.0, draft_s=curve, draft_link_s=0.25) for curve in curves
    ]
    assert choose_limits(config, loaded).drafts == DraftLimits(7, curves[1], 1.0 + 0.5)
    config = EngineConfig(model="demo", speculation="prompt-lookup")
    assert choose_limits(config, loaded).drafts == DraftLimits(7)
    assert choose_limits(EngineConfig(model="demo"), loaded).drafts is None


class Disturbed:
    """Steps of a millisecond and more; some sizes are disturbed when they are measured."""

    def __init__(self, _model: object, _layers: object, rows: int, *_: object) -> None:
        self._rows, self._is_disturbed = rows, rows in (16, 64)

    def seconds(self) -> float:
        return 0.001 * (1 + self._rows / 512) * (50 if self._is_disturbed else 1)


def test_a_size_that_was_disturbed_once_does_not_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glinthawk.engine.tuning.DensePass", Disturbed)
    monkeypatch.setattr("glinthawk.engine.tuning.time.monotonic", lambda: 0.0)
    config = EngineConfig(model=str(make_model(tmp_path, "llama")))
    assert tune(config, load_model(config), []).limits.batch_size == 1024
