"""What a task's ``generation_kwargs`` ask for."""

from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from glinthawk.core.errors import UsageError
from glinthawk.core.sampling import SamplingParams

__all__ = ["Generation", "read_generation"]

#: Arguments of transformers' ``generate``, with the values that change nothing here.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "do_sample": (True, False),  # is told by the temperature
    "early_stopping": (False,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """``until`` are strings of which an answer has nothing, and nothing behind."""

    params: SamplingParams
    until: list[str]


def read_generation(
    given: dict[str, Any],
    *,
    end_of_text: str | None,
    max_gen_toks: int,
    max_length: int,
    is_thinking: bool = False,
) -> Generation:
    """Raises UsageError for what cannot be done. Contexts are cut at their beginning so that
    context and answer have ``max_length`` tokens. Where a model thinks first, strings of the task
    do not end its thoughts."""
    wish: dict[str, Any] = dict(normalize_gen_kwargs(given, max_gen_toks))
    until = handle_stop_sequences(wish.pop("until", None), eos=end_of_text)
    until = [one for one in until if one]
    most = int(wish.pop("max_gen_toks"))
    if most >= max_length:
        raise UsageError(
            f"max_gen_toks is {most}, which leaves no room for a context in {max_length} tokens; "
            "lower it, or raise max_model_len"
        )
    temperature = wish.pop("temperature", 1.0) if wish["do_sample"] else 0.0
    wish.pop("temperature", None)
    told = {name: value for name, value in wish.items() if not _is_neutral(name, value)}
    stop = [one for one in until if one == end_of_text] if is_thinking else until
    try:
        params = SamplingParams(
            temperature=temperature,
            max_tokens=most,
            stop=stop,
            truncate_prompt_tokens=max_length - most,
            **told,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"generation_kwargs: {error}; correct them") from error
    return Generation(params, until)


def _is_neutral(name: str, value: object) -> bool:
    return value in _NEUTRAL.get(name, ())
