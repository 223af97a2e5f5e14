"""Prompts become requests of the engine: one for each of their ``n`` answers."""

from collections.abc import Callable, Iterator

from glinthawk.core.seeds import choice_seed
from glinthawk.core.sequence import Request, Sequence
from glinthawk.llm.open_model import OpenModel
from glinthawk.llm.prompt_reader import Asked

__all__ = ["make_requests", "stop_finder"]


def make_requests(model: OpenModel, asked: Asked, key: str, first_id: int) -> Iterator[Request]:
    """Numbered from ``first_id`` on. ``key`` keeps answers of prompts apart that have one seed.
    Raises RequestError where the prompt cannot be answered."""
    params, limits = asked.params, model.run.limits
    if params.stop:
        model.text.require_stop_strings()
    if params.structured_outputs is not None:
        model.text.require_grammar(params.structured_outputs)
    limits.check_tokens(params)
    prompt = limits.truncate(asked.token_ids, params)
    max_tokens = limits.max_tokens(prompt, params.max_tokens)
    bad_tokens = model.text.bad_tokens(params)
    for choice in range(params.n):
        yield Request(
            id=first_id + choice,
            prompt=prompt,
            params=params.of_choice(choice),
            seed=choice_seed(model.config.seed, params, key, choice, prompt),
            max_tokens=max_tokens,
            eos_token_ids=frozenset() if params.ignore_eos else model.eos_token_ids,
            bad_tokens=bad_tokens,
        )


def stop_finder(model: OpenModel) -> Callable[[Sequence, int], bool]:
    """What tells the engine that a token completes a stop string."""

    def is_found(sequence: Sequence, token: int) -> bool:
        request = sequence.request
        return model.text.find_stop(request.prompt, [*sequence.output, token], request.params)

    return is_found
