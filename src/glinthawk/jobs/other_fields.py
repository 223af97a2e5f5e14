"""Fields of bodies that no form has: those that change nothing, and what to say of the others."""

from collections.abc import Collection
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.core.nearest import advise_name

__all__ = ["check_other"]

#: Whatever their value is, the answer is the same.
_IDLE = frozenset(
    {
        "cache_salt",
        "detokenize",
        "guided_decoding_backend",
        "metadata",
        "output_kind",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "skip_clone",
        "skip_reading_prefix_cache",
        "spaces_between_special_tokens",
        "store",
        "stream_options",
    }
)

#: Fields that change nothing with one of these values, which clients send without a thought.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "stream": (False,),
    "echo": (False,),
    "early_stopping": (False,),
    "extra_args": ({},),
    "flat_logprobs": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "include_reasoning": (True,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "modalities": (["text"],),
    "mm_processor_kwargs": ({},),
    "return_tokens_as_token_ids": (False,),
    "tool_choice": ("none",),
    "tools": ([],),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
_IDLE_WHEN_STRICT = frozenset({"stream", "echo", "tools", "tool_choice"})

#: Of fields that mean what cannot be done: what can be done instead.
_INSTEAD = {
    "stream": "answers of a file are written whole; leave it out",
    "functions": "the API has another name for it now; write tools",
    "function_call": "the API has another name for it now; write tool_choice",
    "extra_body": "it is an argument of OpenAI's client; write its fields into the body itself",
    "logits_processors": "use logit_bias, allowed_token_ids, bad_words or structured_outputs",
    "thinking_token_budget": "use max_tokens",
    "suffix": "what is generated stands behind the prompt, before nothing; remove it",
    "use_beam_search": "tokens are sampled here; remove it",
    "chat_template": "the model's own is used; render the prompt and use /v1/completions",
    "previous_response_id": "no answer is kept here; write the conversation into input",
}


def check_other(name: str, given: dict[str, Any], known: Collection[str], strict: bool) -> None:
    """Pass the field ``name`` of the body ``given``, if it changes nothing, or raise RequestError.
    The form has ``known``. ``strict`` takes fewer."""
    if name in _IDLE and not strict:
        return
    if name == "best_of" and type(given[name]) is int and given[name] in (1, given.get("n", 1)):
        return
    if _is_neutral(name, given[name]) and (not strict or name in _IDLE_WHEN_STRICT):
        return
    raise RequestError(_advice(name, known), param=name, code="unsupported_field")


def _is_neutral(name: str, value: object) -> bool:
    # 0 is equal to False, and no answer to whether to stream.
    return any(
        value == one and isinstance(value, bool) == isinstance(one, bool)
        for one in _NEUTRAL.get(name, ())
    )


def _advice(name: str, known: Collection[str]) -> str:
    if name in _INSTEAD:
        return f"{name} is not supported: {_INSTEAD[name]}"
    if name in _NEUTRAL:
        return f"{name} has no value but its default here; remove it"
    return f"{name} is not supported; {advise_name(name, known, 'remove it')}"
