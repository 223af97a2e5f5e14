"""The backbone with workers that share every sequence, by KV head or by token."""

from pathlib import Path

import pytest
import torch

from cluster import open_cluster
from delayed_staging import LateStaging, often_late
from glinthawk.core.config import PAGE_TOKENS, SplitAttention
from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.tier1.forward.graphs import GraphedPasses
from model_cases import Case, Cases, prompts_with_prefixes
from replay_recorder import TapeRecorder

#: Plain, softcap and windows, windows in every layer, sinks, keys wider than values.
FAMILIES = ["llama", "gemma2", "mistral", "gpt_oss", "deepseek_v3"]

#: How workers split, how many there are, transport, batches in flight, pages on Tier 1
CELLS: list[tuple[SplitAttention, int, str, int, int]] = [
    ("heads", 2, "inproc", 1, 0),
    ("heads", 2, "ipc", 3, 3),
    ("tokens", 2, "ipc", 1, 0),
    ("tokens", 3, "inproc", 3, 0),
    ("tokens", 3, "ipc", 2, 3),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_scarce", [False, True])
@pytest.mark.parametrize(("split", "workers", "scheme", "in_flight", "tier1_pages"), CELLS)
def test_split_sequences_equal_the_models_own_forward(
    cases: Cases,
    tmp_path: Path,
    family: str,
    split: SplitAttention,
    workers: int,
    scheme: str,
    in_flight: int,
    tier1_pages: int,
    is_scarce: bool,
) -> None:
    case = cases.of(family)
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme=scheme,
        workers=workers,
        batches_in_flight=in_flight,
        tier1_pages=tier1_pages,
        worker_pages=2 if is_scarce else 32,
        batch_tokens=96,
        split=split,
        stripe_pages=1,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
        stats = run.stats()
    assert answers == case.expected()
    assert scheduler.is_idle
    assert len(stats.tier2_busy) == workers
    assert min(stats.tier2_busy) > 0
    if is_scarce:
        assert scheduler.counts.preemptions > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("split", ["heads", "tokens"])
def test_split_prefixes_are_shared_too(tmp_path: Path, family: str, split: SplitAttention) -> None:
    case = Case(tmp_path, family, prompts_with_prefixes())
    with open_cluster(
        case.loaded, tmp_path, workers=2, batches_in_flight=2, split=split, stripe_pages=1
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        assert run.engine.scheduler.counts.shared_tokens >= 6 * PAGE_TOKENS
    assert answers == case.expected()


def _long_prompt(length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randint(3, 200, (length,), generator=generator).tolist())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("stripe_pages", [1, 16])
def test_a_sequence_may_be_longer_than_any_worker_holds(
    tmp_path: Path, family: str, stripe_pages: int
) -> None:
    """Beside short ones, on unequal workers whose memory it needs to the last page but one."""
    long = _long_prompt(9 * PAGE_TOKENS - 5)
    case = Case(tmp_path, family, [long, *(_long_prompt(n) for n in (3, 30, 40))])
    with open_cluster(
        case.loaded,
        tmp_path,
        worker_pages=[4, 5, 3],
        batches_in_flight=2,
        split="tokens",
        stripe_pages=stripe_pages,
    ) as run:
        assert run.limits.kv_tokens == 12 * PAGE_TOKENS
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


def test_heads_shared_out_let_a_sequence_outgrow_a_worker(tmp_path: Path) -> None:
    """Two workers with memory for 4 pages of all heads hold 8 of half the heads."""
    case = Case(tmp_path, "llama", [_long_prompt(6 * PAGE_TOKENS)])
    with open_cluster(case.loaded, tmp_path, workers=2, worker_pages=4, split="heads") as run:
        assert run.limits.kv_tokens == 8 * PAGE_TOKENS
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


def test_heads_cannot_be_shared_among_any_number_of_workers(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama", [(5, 6, 7)])
    with (
        pytest.raises(UsageError, match="3 workers cannot share 2 KV heads"),
        open_cluster(case.loaded, tmp_path, workers=3, split="heads"),
    ):
        pytest.fail("it opened")


@pytest.mark.parametrize("split", ["sequence", "heads", "tokens"])
def test_one_worker_is_one_home_however_it_splits(tmp_path: Path, split: SplitAttention) -> None:
    case = Case(tmp_path, "llama", [(5, 6, 7)])
    traffic = []
    for each in ("sequence", split):
        with open_cluster(case.loaded, tmp_path, split=each) as run:  # type: ignore[arg-type]
            params = SamplingParams(temperature=0, max_tokens=5)
            list(run.engine.generate([Request(0, (5, 6, 7), params, 0, 5)]))
            usage = run.tier1.usage()
            traffic.append((usage.decode_bytes_out, usage.prefill_bytes))
    assert traffic[0] == traffic[1]


@pytest.mark.parametrize("family", ["gemma2", "mixtral"])
@pytest.mark.parametrize("split", ["heads", "tokens"])
def test_replayed_passes_and_late_copies_change_no_split_answer(
    tmp_path: Path, family: str, split: SplitAttention
) -> None:
    case = Case(tmp_path, family)
    stagings = [LateStaging(often_late(number)) for number in range(2)]
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme="ipc",
        workers=2,
        worker_pages=4,
        batches_in_flight=3,
        batch_tokens=96,
        passes=GraphedPasses(case.loaded.model, TapeRecorder()),
        staging=iter(stagings).__next__,
        split=split,
        stripe_pages=1,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()
    assert all(staging.num_early_looks > 100 for staging in stagings)
