"""The backbone with an X-cache: of a share of every sequence, Tier 1 rebuilds K and V."""

from pathlib import Path

import pytest

from cluster import open_cluster
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from model_cases import Case, Cases, prompts_with_prefixes

#: RoPE and groups; norms of q and k; softcap and windows; learned positions and biases; one
#: product for q, k and v; sinks; keys wider than values.
FAMILIES = ["llama", "qwen3", "gemma2", "opt", "gpt2", "gpt_oss", "deepseek_v3"]

#: Share of X, workers, batches in flight, whether memory is scarce.
CELLS = [(0.25, 1, 3, False), (0.5, 2, 1, True), (0.75, 2, 2, True), (0.75, 1, 1, False)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("alpha", "workers", "in_flight", "is_scarce"), CELLS)
def test_rebuilt_keys_and_values_equal_the_models_own_forward(
    cases: Cases,
    tmp_path: Path,
    family: str,
    alpha: float,
    workers: int,
    in_flight: int,
    is_scarce: bool,
) -> None:
    case = cases.of(family)
    x_share = XShare(alpha, learn_rebuild(case.loaded.model, case.loaded.spec))
    with open_cluster(
        case.loaded,
        tmp_path,
        workers=workers,
        batches_in_flight=in_flight,
        worker_pages=round(4 * (1 - alpha)) if is_scarce else 32,
        batch_tokens=96,
        x_share=x_share,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
        stats = run.stats()
    assert answers == case.expected()
    assert scheduler.is_idle
    assert stats.xcache_bytes_peak > 0
    if is_scarce:
        assert scheduler.counts.preemptions > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "gpt_oss"])
def test_prefixes_are_shared_too(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family, prompts_with_prefixes())
    x_share = XShare(0.5, learn_rebuild(case.loaded.model, case.loaded.spec))
    with open_cluster(case.loaded, tmp_path, batches_in_flight=2, x_share=x_share) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        assert run.engine.scheduler.counts.shared_tokens >= 6 * PAGE_TOKENS
    assert answers == case.expected()
