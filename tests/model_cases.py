"""What a tiny model itself answers to some prompts, for runs that must answer alike."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from families import make_model
from glinthawk.core.config import PAGE_TOKENS, Device, EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.tier1.model.loader import LoadedModel, load_model

__all__ = ["NUM_SHORT", "Case", "Cases", "own_answer", "prompts_with_prefixes"]

_LONG = 36
_SHORT = 2
NUM_SHORT = 18
_NUM_LONG = 8
_UNUSED_TOKEN = 210
_OWN_ANSWERS: dict[tuple[str, str, int, tuple[tuple[int, ...], ...]], list[list[int]]] = {}


@torch.inference_mode()
def own_answer(model: Any, prompt: tuple[int, ...], length: int) -> list[int]:
    """What a model of transformers itself says, greedily, ``length`` tokens long."""
    ids = torch.tensor([prompt])
    answer = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = answer[0, len(prompt) :].tolist()
    return tokens


class Case:
    """A model, prompts of unequal length, and what the model itself answers to them: short answers,
    then such of ``long`` tokens."""

    def __init__(
        self,
        folder: Path,
        family: str,
        prompts: list[tuple[int, ...]] | None = None,
        device: Device = "cpu",
        long: int = _LONG,
        **settings: Any,
    ) -> None:
        self._long = long
        self.path = path = make_model(folder, family, **settings)
        with torch.inference_mode():
            self.loaded: LoadedModel = load_model(EngineConfig(model=str(path), device=device))
            self.prompts = prompts or self._prompts()
            self.answers = self._own_answers(family, str(settings))

    @staticmethod
    def _prompts() -> list[tuple[int, ...]]:
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(1, 45, (NUM_SHORT,), generator=generator).tolist()
        lengths += torch.randint(1, 20, (_NUM_LONG,), generator=generator).tolist()
        return [
            tuple(torch.randint(3, 200, (length,), generator=generator).tolist())
            for length in lengths
        ]

    def _own_answers(self, family: str, settings: str) -> list[list[int]]:
        """What the model itself says to each prompt, by a copy that has seen no longer ones, which
        some remember. Computed once, for a family's weights are always the same."""
        key = family, settings, self._long, tuple(self.prompts)
        if key not in _OWN_ANSWERS:
            own = AutoModelForCausalLM.from_pretrained(self.path, attn_implementation="eager")
            _OWN_ANSWERS[key] = [
                own_answer(copy.deepcopy(own), prompt, _SHORT if number < NUM_SHORT else self._long)
                for number, prompt in enumerate(self.prompts)
            ]
        return _OWN_ANSWERS[key]

    def requests(self) -> Iterator[Request]:
        """The first ones stop early, at a token that they are known to produce: the scheduler
        learns to expect short answers, takes in too many of the long ones and must pre-empt."""
        for number, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
            stop = answer[_SHORT - 1] if number < NUM_SHORT else _UNUSED_TOKEN
            params = SamplingParams(temperature=0, max_tokens=self._long, stop_token_ids=(stop,))
            yield Request(number, prompt, params, seed=0, max_tokens=self._long)

    def expected(self) -> dict[int, list[int]]:
        expected = {}
        for request, answer in zip(self.requests(), self.answers, strict=True):
            stop = request.params.stop_token_ids[0]
            end = answer.index(stop) + 1 if stop in answer else self._long
            expected[request.id] = answer[:end]
        return expected


class Cases:
    """A case of each family, one model in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._family = ""
        self._case: Case | None = None

    def of(self, family: str) -> Case:
        if self._case is None or family != self._family:
            self._case = None
            self._family, self._case = family, Case(self._folder, family)
        return self._case


def prompts_with_prefixes() -> list[tuple[int, ...]]:
    """Two prefixes, some pages long, each under several prompts; and one prompt without."""
    generator = torch.Generator().manual_seed(2)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 200, (length,), generator=generator).tolist())

    long, short = tokens(3 * PAGE_TOKENS + 5), tokens(PAGE_TOKENS)
    own = [tokens(length) for length in (1, 9, 30, 2, 17, 40)]
    prompts = [long + own[0], long + own[1], long + own[2], long[: 2 * PAGE_TOKENS] + own[3]]
    return [*prompts, short, short + own[4], short + own[1], short + own[1], own[5], long]
