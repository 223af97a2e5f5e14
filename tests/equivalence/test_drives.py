"""The backbone with workers most of whose KV is on drives: attention near storage."""

from pathlib import Path

import pytest
from drive_cases import check_answers, make_case

from cluster import open_cluster, pages_bytes
from glinthawk.core.config import PAGE_TOKENS, SplitAttention
from glinthawk.tier1.model.loader import LoadedModel
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from model_cases import Case

#: Plain, norms of queries and keys, softcap and windows, multi-head.
FAMILIES = ["llama", "qwen3", "gemma2", "opt"]


def _kv_bytes(loaded: LoadedModel, case: Case) -> int:
    tokens = sum(map(len, case.prompts))
    return pages_bytes(loaded, tokens // PAGE_TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_kv_on_drives_equals_the_models_own_forward(tmp_path: Path, family: str) -> None:
    """With memory for an eighth of the KV, buffers for reading and writing included."""
    case = make_case(tmp_path, family)
    pages = _kv_bytes(case.loaded, case) // 8 // pages_bytes(case.loaded, 1)
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme="ipc",
        batches_in_flight=2,
        worker_pages=pages,
        worker_storage=32 << 20,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
        assert run.engine.scheduler.counts.shared_tokens >= 15 * PAGE_TOKENS
        assert run.tier1.usage().kv_bytes_peak > 4 * pages * pages_bytes(case.loaded, 1)
    assert answers == case.expected()


@pytest.mark.parametrize("split", ["heads", "tokens"])
def test_split_attention_on_drives_too(tmp_path: Path, split: SplitAttention) -> None:
    case = make_case(tmp_path, "llama", num_long=4)
    check_answers(case, tmp_path, workers=2, split=split)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_beside_an_x_cache(tmp_path: Path, family: str) -> None:
    case = make_case(tmp_path, family, num_long=4)
    x_share = XShare(0.5, learn_rebuild(case.loaded.model, case.loaded.spec))
    check_answers(case, tmp_path, x_share=x_share)


def test_fetched_from_drives(tmp_path: Path) -> None:
    check_answers(make_case(tmp_path, "llama", num_long=4), tmp_path, placement="fetch")


def test_drives_that_are_full_pre_empt(tmp_path: Path) -> None:
    """Room on drives for hardly more than the longest."""
    case = make_case(tmp_path, "llama", num_long=4)
    room = pages_bytes(case.loaded, 60)
    check_answers(case, tmp_path, worker_pages=32, worker_storage=room)
