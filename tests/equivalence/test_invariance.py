"""Batch-invariant runs: the same tokens and the same bits of log-probabilities in any layout, those
of prompts too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from families import make_model
from glinthawk.core.config import PAGE_TOKENS, EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.pooling import Pooling
from glinthawk.core.prompt_scores import TokenScore
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, TokenLogprobs
from glinthawk.engine.run import Run, open_run
from glinthawk.tier1.model.loader import load_model
from glinthawk.tier2.backends.native import page_bytes
from pipeline_nodes import write_cluster

#: Tokens and log-probabilities of each request, those of its prompt, and what was pooled of that.
Answers = dict[int, tuple[list[int], list[TokenLogprobs], list[TokenScore], bytes]]

#: What may be different in a run without anything being different in its answers.
LAYOUTS: dict[str, dict[str, Any]] = {
    "one by one": {"batch_size": 1},
    "in small steps": {"batch_size": 3, "batch_tokens": 40},
    "in flight": {"batch_size": 16, "batches_in_flight": 2},
    "not packed": {"dense": "plain"},
    "two workers": {"tier2": ("local:2",)},
    "hybrid": {"tier2": ("local:1",), "tier1_kv": "64KiB", "batches_in_flight": 2},
    "heads": {"tier2": ("local:2",), "split_attention": "heads"},
}
DTYPES = ["float32", "bfloat16"]
_NUM_REQUESTS, _NUM_POOLED = 16, 9
_POOLINGS = (Pooling("mean"), Pooling("last"), Pooling("first"), Pooling("last", (8, 40)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, str, str], Answers]:
    """Answers of one roomy tier, by family and types."""
    return {}


def _requests() -> Iterator[Request]:
    """Greedy ones and sampled ones, of one to a hundred tokens, half of which begin alike."""
    common = tuple(range(30, 30 + 2 * PAGE_TOKENS))
    for number in range(_NUM_REQUESTS):
        own = tuple((7 * number + 3 * place) % 200 + 3 for place in range(1 + 3 * number % 37))
        temperature = 0.0 if number % 3 else 0.9
        params = SamplingParams(
            temperature=temperature,
            top_p=0.9,
            logprobs=3,
            prompt_logprobs=2 if number % 4 == 1 else None,
            ignore_eos=True,
        )
        prompt = common + own if number % 2 else own
        yield Request(number, prompt, params, seed=number, max_tokens=4 + number % 9)
        if number < _NUM_POOLED:
            only = SamplingParams(max_tokens=0, temperature=0)
            pooling = _POOLINGS[number % len(_POOLINGS)]
            yield Request(100 + number, prompt, only, 0, 0, pooling=pooling)


def _config(folder: Path, family: str, dtype: str, **settings: Any) -> EngineConfig:
    path = folder / family
    if not path.exists():
        make_model(folder, family)
    kv = {"worker_kv": "8MiB"} if "tier2" in settings else {"tier1_kv": "8MiB"}
    everything = {**kv, "dtype": dtype, "batch_invariant": True, **settings}
    return EngineConfig(model=str(path), **everything)


def _answer(run: Run) -> Answers:
    answers = {
        s.request.id: (
            s.output,
            s.logprobs,
            [score for part in s.scores for score in part],
            b"" if s.pooled is None else s.pooled.tobytes(),
        )
        for s in run.engine.generate(_requests())
    }
    run.engine.scheduler.validate()
    assert len(answers) == _NUM_REQUESTS + _NUM_POOLED
    return answers


def _expected(
    known: dict[tuple[str, str, str], Answers], folder: Path, family: str, dtype: str, kv: str
) -> Answers:
    key = family, dtype, kv
    if key not in known:
        with open_run(_config(folder, family, dtype, kv_dtype=kv)) as run:
            known[key] = _answer(run)
    return known[key]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    known: dict[tuple[str, str, str], Answers], folder: Path, layout: str, dtype: str
) -> None:
    if layout == "not packed" and dtype == "bfloat16":
        pytest.skip("other kernels, other bits: a packed run is compared with packed ones")
    with open_run(_config(folder, "llama", dtype, **LAYOUTS[layout])) as run:
        answers = _answer(run)
        assert run.resolved["batch_invariant"]
    assert answers == _expected(known, folder, "llama", dtype, "auto")


#: LayerNorm and a transposed product; softcap, windows and norms of another kind; experts.
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral", "gpt_oss", "qwen3_moe"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_families(
    known: dict[tuple[str, str, str], Answers],
    folder: Path,
    family: str,
    dtype: str,
) -> None:
    expected = _expected(known, folder, family, dtype, "auto")
    for layout in ("one by one", "in small steps"):
        with open_run(_config(folder, family, dtype, **LAYOUTS[layout])) as run:
            assert _answer(run) == expected


@pytest.mark.parametrize("layout", ["one by one", "two workers"])
def test_small_kv_types(
    known: dict[tuple[str, str, str], Answers], folder: Path, layout: str
) -> None:
    """Prompts, too, attend to what is left of their keys and values."""
    settings = {**LAYOUTS[layout], "kv_dtype": "int8"}
    with open_run(_config(folder, "llama", "bfloat16", **settings)) as run:
        answers = _answer(run)
    assert answers == _expected(known, folder, "llama", "bfloat16", "int8")


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_preemption_and_prefixes(
    known: dict[tuple[str, str, str], Answers], folder: Path, kv_dtype: str
) -> None:
    """What was given up is prefilled again in one span, with the tokens that it had."""
    expected = _expected(known, folder, "llama", "bfloat16", kv_dtype)
    counts = []
    for pages in (5, 6, 8):
        page = _page_bytes(folder, kv_dtype)
        config = _config(folder, "llama", "bfloat16", tier1_kv=pages * page, kv_dtype=kv_dtype)
        with open_run(config) as run:
            assert run.limits.kv_tokens == pages * PAGE_TOKENS
            assert _answer(run) == expected
            counts.append(run.engine.scheduler)
    assert sum(scheduler.counts.preemptions for scheduler in counts)
    assert sum(scheduler.counts.shared_tokens for scheduler in counts)


def _page_bytes(folder: Path, kv_dtype: str) -> int:
    loaded = load_model(EngineConfig(model=str(folder / "llama"), dtype="bfloat16"))
    kv_dtype = loaded.spec.dtype if kv_dtype == "auto" else kv_dtype
    return page_bytes(loaded.spec.layers, PAGE_TOKENS, kv_dtype)


def test_a_pipeline(
    known: dict[tuple[str, str, str], Answers], folder: Path, tmp_path: Path
) -> None:
    cluster = write_cluster(tmp_path, [1, 1])
    config = _config(folder, "llama", "bfloat16", cluster=cluster, batch_size=5)
    with open_run(config) as run:
        answers = _answer(run)
        assert run.resolved["batch_invariant"]
    assert answers == _expected(known, folder, "llama", "bfloat16", "auto")


def test_drives(known: dict[tuple[str, str, str], Answers], folder: Path, tmp_path: Path) -> None:
    settings = {
        "tier2": ("local:1",),
        "worker_kv": "200KiB",
        "worker_storage": (f"{tmp_path}:16MiB",),
    }
    with open_run(_config(folder, "llama", "bfloat16", **settings)) as run:
        answers = _answer(run)
    assert answers == _expected(known, folder, "llama", "bfloat16", "auto")


def test_after_an_interruption(known: dict[tuple[str, str, str], Answers], folder: Path) -> None:
    with open_run(_config(folder, "llama", "bfloat16", batch_size=4)) as run:
        left = run.engine.generate(_requests())
        for _ in range(5):
            next(left)
        left.close()
        assert _answer(run) == _expected(known, folder, "llama", "bfloat16", "auto")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"tier2": ("local:2",), "split_attention": "tokens"}, "tokens"),
        ({"tier2": ("local:1",), "xcache": 0.5}, "xcache"),
        ({"tier2": ("local:1",), "kv_placement": "fetch"}, "near"),
    ],
)
def test_what_it_does_not_go_with(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        EngineConfig(model="demo", batch_invariant=True, **settings)
