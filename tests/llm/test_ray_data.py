"""A stage of Ray Data, on a real Ray on this machine, answers as ``LLM.map`` does."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glinthawk import LLM, SamplingParams
from glinthawk.ray_data import AnswerBatches
from monkey import descendants
from watching import wait_until

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'glinthawk[ray]'")

from ray_machines import first_machine  # noqa: E402

#: Ray Data warns of its own habits.
pytestmark = pytest.mark.filterwarnings("ignore")

GREEDY = SamplingParams(temperature=0, max_tokens=6)
ROWS = [{"id": n, "text": f"What is a {n}?" if n % 5 else None} for n in range(20)]
_SETTINGS: dict[str, Any] = {"tier1_kv": "16MiB", "batch_size": 8}


@pytest.fixture(scope="module")
def truth() -> list[dict[str, Any]]:
    with LLM("demo", **_SETTINGS) as llm:
        rows: list[dict[str, Any]] = llm.map(ROWS, GREEDY, prompt_column="text", use_tqdm=False)
    return rows


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    before = descendants(os.getpid())
    with first_machine(cpus=2, memory=4 << 30):
        yield
    wait_until(lambda: descendants(os.getpid()) == before)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("batch_format", ["pyarrow", "numpy", "pandas"])
def test_a_stage_answers_as_map_does(batch_format: str, truth: list[dict[str, Any]]) -> None:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    asked = {"model": "demo", "sampling_params": GREEDY, "prompt_column": "text"}
    places = {"tier2": "local:1", "worker_kv": "16MiB", **_SETTINGS}
    dataset = ray.data.from_items(ROWS, override_num_blocks=2).map_batches(
        AnswerBatches,
        fn_constructor_kwargs={**asked, **places},
        batch_size=8,
        batch_format=batch_format,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    rows = sorted(dataset.take_all(), key=lambda row: row["id"])
    for name in ("id", "answer", "finish_reason", "completion_tokens", "error_code"):
        assert [_plain(row[name]) for row in rows] == [row[name] for row in truth]

    # The stage that Ray drops ends its workers, and removes their sockets.
    del dataset
    gc.collect()
    wait_until(lambda: not [*Path(tempfile.gettempdir()).glob("glinthawk-*")])


def _plain(value: object) -> object:
    """None for what pandas has in its place."""
    return None if value != value else value
