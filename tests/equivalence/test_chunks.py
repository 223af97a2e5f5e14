"""The backbone with prompts that are longer than a batch may be: prefilled in chunks, beside decode
rows, they change no answer."""

from pathlib import Path
from typing import Any

import pytest
from chunk_cases import BEYOND_PROMPTS, check_chunks, make_prompts

from cluster import open_cluster
from delayed_staging import LateStaging, often_late
from families import FAMILIES
from glinthawk.core.config import EngineConfig
from glinthawk.engine.run import open_run
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from model_cases import Case
from pipeline_nodes import write_cluster

#: In one chunk, in some of 64, and in many; one that ends with a chunk, one that is a token longer.
_LENGTHS = (3, 64, 65, 20, 128, 150, 1, 90)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("chunk", [7, 64])
def test_long_prompts_at_workers_and_on_tier_1(tmp_path: Path, family: str, chunk: int) -> None:
    case = Case(tmp_path, family, make_prompts(*_LENGTHS), long=BEYOND_PROMPTS)
    with open_cluster(
        case.loaded,
        tmp_path,
        workers=2,
        tier1_pages=8,
        batches_in_flight=2,
        batch_tokens=chunk,
    ) as run:
        check_chunks(case, run, chunk)


_LAYOUTS: dict[str, dict[str, Any]] = {
    "tier 1": {"workers": 0, "tier1_pages": 64},
    "scarce": {"workers": 1, "worker_pages": 9, "batches_in_flight": 3},
    "heads": {"workers": 2, "split": "heads"},
    "tokens": {"workers": 3, "split": "tokens", "stripe_pages": 1},
    "late": {"workers": 1, "staging": lambda: LateStaging(often_late(1))},
    "drives": {"worker_pages": 24, "worker_storage": 16 << 20},
    "fetch": {"placement": "fetch"},
    "small window": {"window": 1 << 14},
}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_layouts(tmp_path: Path, family: str, layout: str) -> None:
    case = Case(tmp_path, family, make_prompts(*_LENGTHS))
    with open_cluster(case.loaded, tmp_path, batch_tokens=40, **_LAYOUTS[layout]) as run:
        check_chunks(case, run, 40)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_beside_an_x_cache(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family, make_prompts(*_LENGTHS))
    share = XShare(0.5, learn_rebuild(case.loaded.model, case.loaded.spec))
    with open_cluster(case.loaded, tmp_path, batch_tokens=40, x_share=share) as run:
        check_chunks(case, run, 40)


def test_over_a_pipeline(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama", make_prompts(*_LENGTHS))
    cluster = write_cluster(tmp_path, [1, 1], "100KiB")
    config = EngineConfig(model=str(case.path), cluster=cluster, batch_tokens=40)
    with open_run(config) as run:
        check_chunks(case, run, 40)
