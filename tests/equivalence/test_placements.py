"""The backbone with KV that Tier 1 fetches from the workers, and how much more that moves."""

import json
from pathlib import Path

import pytest
from link_traffic import SHAPE, decode_bytes

from cluster import open_cluster
from glinthawk.core.config import PAGE_TOKENS, EngineConfig, KvPlacement
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import open_run
from glinthawk.tier1.model.loader import LoadedModel, load_model
from model_cases import Case, Cases, prompts_with_prefixes
from pipeline_nodes import write_cluster

#: Plain, no groups, softcap and windows, windows in every layer, sinks, keys wider than values.
FAMILIES = ["llama", "opt", "gemma2", "mistral", "gpt_oss", "deepseek_v3"]

#: Workers, transport, batches in flight, pages on Tier 1, scarce KV
CELLS = [(1, "inproc", 1, 0, False), (2, "ipc", 3, 0, True), (2, "ipc", 2, 3, False)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("workers", "scheme", "in_flight", "tier1_pages", "is_scarce"), CELLS)
def test_fetched_kv_equals_the_models_own_forward(
    cases: Cases,
    tmp_path: Path,
    family: str,
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
        worker_pages=3 if is_scarce else 64,
        batch_tokens=96,
        placement="fetch",
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
        stats = run.stats()
    assert answers == case.expected()
    assert scheduler.is_idle
    assert len(stats.tier2_busy) == workers
    assert stats.wire_decode_bytes_back > stats.wire_decode_bytes_out
    if is_scarce:
        assert scheduler.counts.preemptions > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_fetched_prefixes_are_shared_too(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family, prompts_with_prefixes())
    with open_cluster(
        case.loaded, tmp_path, workers=1, batches_in_flight=2, placement="fetch"
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        assert run.engine.scheduler.counts.shared_tokens >= 6 * PAGE_TOKENS
    assert answers == case.expected()


def test_every_slice_of_a_pipeline_fetches_from_its_own_workers(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama")
    config = EngineConfig(
        model=str(tmp_path / "llama"),
        cluster=write_cluster(tmp_path, [2, 2]),
        kv_placement="fetch",
        batch_tokens=96,
    )
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        stats = run.stats()
    assert answers == case.expected()
    assert stats.wire_decode_bytes_back > stats.wire_decode_bytes_out


_COUNT = 4
_NEW = 5


def _shape(folder: Path, num_kv_heads: int) -> LoadedModel:
    settings = {**SHAPE, "num_key_value_heads": num_kv_heads, "max_position_embeddings": 1024}
    (folder / "config.json").write_text(json.dumps(settings))
    return load_model(EngineConfig(model=str(folder), load_format="dummy"))


def _requests(prompt: int) -> list[Request]:
    """Prompts that have no page in common."""
    params = SamplingParams(temperature=0, max_tokens=_NEW, ignore_eos=True)
    return [Request(i, (5 + i,) * prompt, params, 0, _NEW) for i in range(_COUNT)]


def _moved(loaded: LoadedModel, folder: Path, placement: KvPlacement, prompt: int) -> int:
    """Bytes that cross the link to decode."""
    with open_cluster(
        loaded, folder, worker_pages=256, placement=placement, kv_dtype="bfloat16"
    ) as run:
        assert len(list(run.engine.generate(_requests(prompt)))) == _COUNT
        return sum(decode_bytes(run))


@pytest.mark.parametrize("num_kv_heads", [12, 4, 1])
@pytest.mark.parametrize("prompt", [3 * PAGE_TOKENS, 20 * PAGE_TOKENS])
def test_attention_at_the_workers_moves_less_by_what_the_paper_says(
    tmp_path: Path, num_kv_heads: int, prompt: int
) -> None:
    """(s + 1) / (G + 1) for contexts of s tokens and G query heads a KV head: 2 * (s + 1) elements
    a KV head against (2 + 2 / G) a query head. Fetched pages are whole: s is rounded up."""
    loaded = _shape(tmp_path, num_kv_heads)
    near, fetch = (_moved(loaded, tmp_path, placement, prompt) for placement in ("near", "fetch"))
    context = prompt + PAGE_TOKENS  # the new tokens are on the page behind the prompt
    factor = (context + 1) / (12 // num_kv_heads + 1)
    assert 0.95 * factor < fetch / near < 1.02 * factor


def test_int8_kv_is_fetched_as_it_is_kept(tmp_path: Path) -> None:
    """A quarter of the bytes, and attended elsewhere it gives the same answers."""
    case = Case(tmp_path, "llama")
    answers, moved = [], []
    for placement, kv_dtype in (("near", "int8"), ("fetch", "int8"), ("fetch", "float32")):
        with open_cluster(case.loaded, tmp_path, placement=placement, kv_dtype=kv_dtype) as run:
            answers.append({s.id: s.output for s in run.engine.generate(case.requests())})
            moved.append(decode_bytes(run)[1])
    assert answers[0] == answers[1]
    assert moved[1] < 0.35 * moved[2]
