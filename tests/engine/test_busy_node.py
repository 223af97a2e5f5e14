"""A node serves one run at a time; another one waits for its turn."""

from pathlib import Path

import pytest

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import WorkerBusy
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from pipeline_nodes import node


def answer(run: Run) -> list[int]:
    request = Request(0, (5, 6, 7), SamplingParams(max_tokens=4, temperature=0), 0, 4)
    return next(iter(run.engine.generate([request]))).output


def test_a_second_run_does_not_take_a_node_from_the_first(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(f'[[nodes]]\naddress = "ipc://{tmp_path}/node"\ntier1_kv = "1MiB"\n')
    hasty = EngineConfig(model="demo", cluster=str(cluster), wait_for_workers=0.1)
    patient = EngineConfig(model="demo", cluster=str(cluster))
    with node(tmp_path / "node"):
        with open_run(patient) as first:
            before = answer(first)
            with pytest.raises(WorkerBusy, match="another run"), open_run(hasty):
                pass
            assert answer(first) == before
        with open_run(patient) as second:  # may begin before the node has heard the first one end
            assert answer(second) == before
