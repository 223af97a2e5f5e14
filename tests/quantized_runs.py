"""Runs of quantised models, and what the plain models that they mean answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import open_run
from model_cases import own_answer

__all__ = ["LAYOUTS", "check_exact", "check_log_probabilities", "logprobs", "meant", "run"]

_TOKENS = 8
_PROMPTS = [tuple(range(3 + i, 9 + 5 * i)) for i in range(6)]
LAYOUTS: dict[str, dict[str, Any]] = {
    "tier 1": {"tier1_kv": "1MiB"},
    "worker": {"tier2": ("local:1",), "worker_kv": "1MiB"},
    "hybrid": {"tier2": ("local:1",), "tier1_kv": "48KiB", "worker_kv": "1MiB"},
    "heads": {"tier2": ("local:2",), "split_attention": "heads"},
}


def _requests() -> Iterator[Request]:
    params = SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True)
    for number, prompt in enumerate(_PROMPTS):
        yield Request(number, prompt, params, 0, _TOKENS)


def meant(folder: Path) -> dict[int, list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder / "truth", attn_implementation="eager")
    return {number: own_answer(model, prompt, _TOKENS) for number, prompt in enumerate(_PROMPTS)}


def run(config: EngineConfig) -> dict[int, list[int]]:
    with open_run(config) as opened:
        return {s.request.id: s.output for s in opened.engine.generate(_requests())}


def logprobs(folder: Path, dtype: Any) -> torch.Tensor:
    config = EngineConfig(model=str(folder), dtype=dtype, tier1_kv="1MiB")
    params = SamplingParams(temperature=0, max_tokens=0, prompt_logprobs=0)
    requests = [Request(n, prompt, params, 0, 0) for n, prompt in enumerate(_PROMPTS)]
    with open_run(config) as opened:
        scored = {s.request.id: s.scores for s in opened.engine.generate(requests)}
    return torch.tensor([one.logprob for n in sorted(scored) for part in scored[n] for one in part])


def check_log_probabilities(folder: Path) -> None:
    """Of whole prompts: in float32 the same, and in bfloat16 no further from them than those of the
    plain model, as far as chance goes."""
    exact = check_exact(folder)
    far, rounded = (
        (logprobs(one, "bfloat16") - exact).norm() for one in (folder, folder / "truth")
    )
    assert far < 2 * rounded


def check_exact(folder: Path) -> torch.Tensor:
    """In float32 log probabilities are those of the plain model, which are returned."""
    exact = logprobs(folder / "truth", "float32")
    assert (logprobs(folder, "float32") - exact).abs().max() < 1e-4
    return exact
