"""Prompts become requests of the engine: one for each of their ``n`` answers."""

from collections.abc import Iterator

from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.prompt_reader import Asked

__all__ = ["make_requests", "prompt_of"]

#: More answers than a prompt has.
_ANSWERS = 1 << 8


def make_requests(
    model: OpenModel, asked: Asked, number: int, key: str | None = None
) -> Iterator[Request]:
    """Of prompt ``number``, whose answers depend on ``key`` where the prompt brings no seed: on the
    number, if None. Raises RequestError where the prompt cannot be answered."""
    params, limits = asked.params, model.run.limits
    if params.stop:
        model.text.require_stop_strings()
    if params.structured_outputs is not None:
        model.text.require_grammar(params.structured_outputs)
    limits.check_tokens(params)
    prompt = limits.truncate(asked.token_ids, params)
    max_tokens = limits.max_tokens(prompt, params.max_tokens)
    bad_tokens = model.text.bad_tokens(params)
    name = str(number) if key is None else key
    for choice in range(params.n):
        yield Request(
            id=number * _ANSWERS + choice,
            prompt=prompt,
            params=params.of_choice(choice),
            seed=choice_seed(model.config.seed, params, name, choice, prompt),
            max_tokens=max_tokens,
            eos_token_ids=frozenset() if params.ignore_eos else model.eos_token_ids,
            bad_tokens=bad_tokens,
            adapter=asked.adapter,
        )


def prompt_of(request: Request) -> tuple[int, int]:
    """The numbers of the prompt, and of the choice."""
    return divmod(request.id, _ANSWERS)
