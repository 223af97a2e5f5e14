"""The backbone over several nodes: slices in processes, each with workers of its own."""

from pathlib import Path

import pytest

from glinthawk.core.config import EngineConfig, SplitAttention
from glinthawk.engine.run import open_run
from model_cases import Case
from pipeline_nodes import write_cluster


@pytest.mark.parametrize(
    ("family", "workers", "tier1_kv"),
    [
        ("llama", [1, 1, 1], "100KiB"),
        ("gemma2", [2, 2], "0"),
        pytest.param("llama", [2, 2, 2], "0", marks=pytest.mark.matrix),
    ],
)
def test_slices_with_workers_of_their_own_answer_as_the_model_does(
    tmp_path: Path, family: str, workers: list[int], tier1_kv: str
) -> None:
    case = Case(tmp_path, family)
    cluster = write_cluster(tmp_path, workers, tier1_kv)
    config = EngineConfig(model=str(tmp_path / family), cluster=cluster, batch_tokens=96)
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
        assert len(run.tier1.homes()) == workers[0] + (tier1_kv != "0")
        assert len(run.stats().tier2_busy) == sum(workers)
    assert answers == case.expected()


@pytest.mark.parametrize("split", ["heads", "tokens"])
def test_the_workers_of_a_slice_share_its_sequences(tmp_path: Path, split: SplitAttention) -> None:
    case = Case(tmp_path, "llama")
    cluster = write_cluster(tmp_path, [2, 2])
    model = str(tmp_path / "llama")
    config = EngineConfig(model=model, cluster=cluster, split_attention=split, batch_tokens=96)
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
        assert run.engine.scheduler.homes == [1]
        assert len(run.stats().tier2_busy) == 4
    assert answers == case.expected()
