"""Layers shared among the nodes of a pipeline: by weights, by speed, or as the user says."""

from dataclasses import replace
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.cluster import NodePlan
from glinthawk.core.config import EngineConfig
from glinthawk.core.slices import balance_layers
from glinthawk.engine import pipeline_opening
from glinthawk.engine.layer_shares import LayerShares, share_layers
from glinthawk.engine.run import open_run
from glinthawk.planner.known_models import known_shape
from model_cases import Case
from pipeline_nodes import write_cluster


@pytest.mark.parametrize("model", ["Llama-3.2-1B", "Llama-3.1-8B", "Qwen2.5-7B"])
def test_slices_of_a_model_with_a_large_head_are_alike(model: str) -> None:
    shape = known_shape(model)
    slices = shape.cut(4)
    assert sum(one.weight_bytes for one in slices) >= shape.weight_bytes
    read = [one.bytes_read(256, 256) for one in slices]
    assert max(read) <= 1.08 * sum(read) / 4


def test_a_slow_node_gets_fewer_layers_and_one_that_says_nothing_what_its_weights_say() -> None:
    work = [1.0] * 16
    shares = LayerShares(balance_layers(work, 4.0, [1.0] * 4), work, 4.0)
    assert [len(part) for part in shares.parts] == [5, 5, 5, 1]
    better = shares.balance([0.05, 0.10, 0.05, 0.05])
    assert better is not None
    assert [len(part) for part in better.parts] == [6, 2, 6, 2]
    # It was about as good, nothing was measured, or steps are too short to tell.
    assert shares.balance([0.05, 0.055, 0.05, 0.05]) is None
    assert shares.balance([0.05, 0.0, 0.05, 0.05]) is None
    assert shares.balance([0.0005, 0.0010, 0.0005, 0.0005]) is None
    # And what the user says is so.
    assert replace(shares, work=None).balance([0.05, 0.10, 0.05, 0.05]) is None


def test_the_user_says_who_has_which_layers(tmp_path: Path) -> None:
    config = EngineConfig(model=str(make_model(tmp_path / "llama", "llama")))
    shares = share_layers(config, [NodePlan(layers="0:1"), NodePlan(layers="1:3")])
    assert [len(part) for part in shares.parts] == [1, 2]
    assert shares.work is None


def test_nodes_that_load_other_layers_answer_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, "llama")
    first = [len(part) for part in share_layers(_config(tmp_path), [NodePlan()] * 2).parts]
    assert first == [2, 1]
    monkeypatch.setattr(pipeline_opening, "step_seconds", lambda _: [1.0, 0.1])
    shared = []
    monkeypatch.setattr(
        pipeline_opening.Pipeline,
        "share",
        lambda pipeline, parts, share=pipeline_opening.Pipeline.share: (
            shared.append([len(part) for part in parts]),
            share(pipeline, parts),
        ),
    )
    config = replace(_config(tmp_path), cluster=write_cluster(tmp_path, [1, 1]))
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert shared == [[1, 2]]
    assert answers == case.expected()


def _config(folder: Path) -> EngineConfig:
    return EngineConfig(model=str(folder / "llama"), batch_tokens=96)
