"""The backbone: two tiers == one model's own forward, greedy, float32, token for token."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster import open_cluster
from families import FAMILIES, REFUSED, make_model
from glinthawk.core.config import PAGE_TOKENS, Device, EngineConfig
from glinthawk.core.errors import UnsupportedModel
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import open_run
from glinthawk.tier1.model.loader import LoadedModel, load_model
from glinthawk.tier2.cache import KVCache

#: The families that run in every combination of workers, batches, memories and transports.
BACKBONE = [
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "opt", "gpt2"),
    *("gpt_neox", "phi3", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"),
]

_LONG = 36
_SHORT = 2
_NUM_SHORT = 18
_NUM_LONG = 8
_UNUSED_TOKEN = 210
_OWN_ANSWERS: dict[tuple[str, tuple[tuple[int, ...], ...]], list[list[int]]] = {}

#: workers, batches in flight, pages on Tier 1, transport, scarce KV
MATRIX = list(itertools.product((1, 3), (1, 4), (0, 3), ("inproc", "ipc", "tcp"), (False, True)))


class Case:
    """A model, prompts of unequal length, and what the model itself answers to them."""

    def __init__(
        self,
        folder: Path,
        family: str,
        prompts: list[tuple[int, ...]] | None = None,
        device: Device = "cpu",
        **settings: Any,
    ) -> None:
        self.path = path = make_model(folder, family, **settings)
        with torch.inference_mode():
            self.loaded: LoadedModel = load_model(EngineConfig(model=str(path), device=device))
            self.prompts = prompts or self._prompts()
            self.answers = self._own_answers(family)

    @staticmethod
    def _prompts() -> list[tuple[int, ...]]:
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(1, 45, (_NUM_SHORT,), generator=generator).tolist()
        lengths += torch.randint(1, 20, (_NUM_LONG,), generator=generator).tolist()
        return [
            tuple(torch.randint(3, 200, (length,), generator=generator).tolist())
            for length in lengths
        ]

    def _own_answers(self, family: str) -> list[list[int]]:
        """What the model itself says; computed once, for a family's weights are always the same."""
        key = family, tuple(self.prompts)
        if key not in _OWN_ANSWERS:
            own = AutoModelForCausalLM.from_pretrained(self.path, attn_implementation="eager")
            _OWN_ANSWERS[key] = [
                self._own_answer(own, prompt, _SHORT if number < _NUM_SHORT else _LONG)
                for number, prompt in enumerate(self.prompts)
            ]
        return _OWN_ANSWERS[key]

    @staticmethod
    def _own_answer(own: torch.nn.Module, prompt: tuple[int, ...], length: int) -> list[int]:
        ids = torch.tensor([prompt])
        answer = own.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return answer[0, len(prompt) :].tolist()

    def requests(self) -> Iterator[Request]:
        """The first ones stop early, at a token that they are known to produce: the scheduler
        learns to expect short answers, takes in too many of the long ones and must pre-empt."""
        for number, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
            stop = answer[_SHORT - 1] if number < _NUM_SHORT else _UNUSED_TOKEN
            params = SamplingParams(temperature=0, max_tokens=_LONG, stop_token_ids=(stop,))
            yield Request(number, prompt, params, seed=0, max_tokens=_LONG)

    def expected(self) -> dict[int, list[int]]:
        expected = {}
        for request, answer in zip(self.requests(), self.answers, strict=True):
            stop = request.params.stop_token_ids[0]
            end = answer.index(stop) + 1 if stop in answer else _LONG
            expected[request.id] = answer[:end]
        return expected


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {}


def _case(cases: dict[str, Case], folder: Path, family: str) -> Case:
    if family not in cases:
        cases.clear()  # one model in memory at a time
        cases[family] = Case(folder, family)
    return cases[family]


def _cells() -> Iterator[Any]:
    """Every family meets every value of every axis; the first one meets every combination.

    The rest of the matrix is marked ``matrix``: `make test-all` runs it.
    """
    for number, family in enumerate(BACKBONE):
        for combination in range(len(MATRIX)):
            always = number == 0 or combination % 7 == number % 7
            yield pytest.param(family, combination, marks=() if always else pytest.mark.matrix)


@pytest.mark.parametrize(("family", "combination"), list(_cells()))
def test_two_tiers_equal_the_models_own_forward(
    cases: dict[str, Case], tmp_path: Path, family: str, combination: int
) -> None:
    case = _case(cases, tmp_path, family)
    workers, in_flight, tier1_pages, scheme, scarce = MATRIX[combination]
    with open_cluster(
        case.loaded,
        tmp_path,
        scheme=scheme,
        workers=workers,
        batches_in_flight=in_flight,
        tier1_pages=tier1_pages,
        worker_pages=3 if scarce else 64,
        batch_tokens=96,
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
    assert answers == case.expected()
    assert scheduler.is_idle
    if scarce:
        assert scheduler.num_preemptions > 0


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(BACKBONE)))
def test_other_families_work_too(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family)
    with open_cluster(case.loaded, tmp_path, workers=2, batches_in_flight=2) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


def _prompts_with_prefixes() -> list[tuple[int, ...]]:
    """Two prefixes, some pages long, each under several prompts; and one prompt without."""
    generator = torch.Generator().manual_seed(2)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 200, (length,), generator=generator).tolist())

    long, short = tokens(3 * PAGE_TOKENS + 5), tokens(PAGE_TOKENS)
    own = [tokens(length) for length in (1, 9, 30, 2, 17, 40)]
    prompts = [long + own[0], long + own[1], long + own[2], long[: 2 * PAGE_TOKENS] + own[3]]
    return [*prompts, short, short + own[4], short + own[1], short + own[1], own[5], long]


@pytest.mark.parametrize("family", BACKBONE)
@pytest.mark.parametrize("place", ["worker", "tier 1"])
def test_shared_prefixes_change_no_answer(tmp_path: Path, family: str, place: str) -> None:
    case = Case(tmp_path, family, _prompts_with_prefixes())
    workers, tier1_pages = (1, 0) if place == "worker" else (0, 64)
    with open_cluster(
        case.loaded, tmp_path, workers=workers, tier1_pages=tier1_pages, batches_in_flight=2
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        scheduler = run.engine.scheduler
        scheduler.validate()
    assert answers == case.expected()
    assert scheduler.num_shared_tokens >= 6 * PAGE_TOKENS


#: Softcaps, sinks and windows: worth the time that Triton's interpreter takes.
_INTERPRETED = ("gemma2", "gpt_oss")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in _INTERPRETED else pytest.mark.gpu)
        for family in BACKBONE
    ],
)
def test_a_worker_whose_kv_is_on_a_gpu_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Without a GPU the same kernels run in Triton's interpreter."""
    case = Case(tmp_path, family, _prompts_with_prefixes())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = partial(KVCache, backend="triton")
    monkeypatch.setattr("glinthawk.tier2.session.KVCache", cache)
    with open_cluster(
        case.loaded, tmp_path, workers=1, batches_in_flight=2, worker_device=device
    ) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        assert run.engine.scheduler.num_shared_tokens >= 6 * PAGE_TOKENS
    assert answers == case.expected()


@pytest.mark.gpu
@pytest.mark.parametrize("family", BACKBONE)
def test_a_run_on_a_gpu_alone_changes_no_answer(tmp_path: Path, family: str) -> None:
    case = Case(tmp_path, family)
    config = EngineConfig(model=str(case.path), device="cuda", tier1_kv="64MiB")
    with open_run(config) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
    assert answers == case.expected()


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path, family: str) -> None:
    path = make_model(tmp_path, family)
    with pytest.raises(UnsupportedModel, match=family), open_run(EngineConfig(model=str(path))):
        pytest.fail("it ran")
