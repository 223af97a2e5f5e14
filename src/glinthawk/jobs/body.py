"""The ``body`` of a line: the fields of both APIs, by type, and nothing else."""

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.nearest import advise_name
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.structured_fields import StructuredFields, read_structured

__all__ = ["Body", "ChatBody", "CompletionBody", "Kind", "read_body", "sampling_params"]

Kind = Literal["chat", "completion"]
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Stops = Annotated[list[str], msgspec.Meta(max_length=16)]

#: Fields that change nothing with this value, which clients send without a thought.
_NEUTRAL: dict[str, object] = {
    "stream": False,
    "echo": False,  # of a chat
    "tools": [],
    "tool_choice": "none",
    "skip_special_tokens": True,
    "include_stop_str_in_output": False,
}

#: Fields that mean in a body what they mean in SamplingParams; of the others each API says its own.
_OWN = {"max_tokens", "logprobs", "prompt_logprobs", "logit_bias", "structured_outputs"}
_SAMPLING = {one.name for one in fields(SamplingParams)} - _OWN

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,17}")


class Body(StructuredFields, kw_only=True):
    """Fields of both APIs. None is absent."""

    model: str | None = None
    max_tokens: _Int | None = None
    max_completion_tokens: _Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: _Int | None = None
    min_p: float | None = None
    n: _Int | None = None
    seed: _Int | None = None
    stop: str | _Stops | None = None
    stop_token_ids: list[int] | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    min_tokens: _Int | None = None
    prompt_logprobs: _Int | None = None
    return_token_ids: bool | None = None
    user: str | None = None


class ChatBody(Body, kw_only=True):
    """Body of a line for /v1/chat/completions."""

    messages: Any = None
    logprobs: bool | None = None
    top_logprobs: _Int | None = None


class CompletionBody(Body, kw_only=True):
    """Body of a line for /v1/completions."""

    prompt: Any = None
    logprobs: _Int | None = None
    echo: bool | None = None


def read_body(kind: Kind, body: object) -> ChatBody | CompletionBody:
    """``body`` with every field of the right type; RequestError names a field that is not."""
    form: type[ChatBody] | type[CompletionBody] = ChatBody if kind == "chat" else CompletionBody
    if not isinstance(body, dict):
        raise RequestError("body must be an object; see the README for an example", param="body")
    given = {name: value for name, value in body.items() if value is not None}
    for name in list(given.keys() - set(form.__struct_fields__)):
        if not _is_neutral(name, given):
            raise _unsupported(name, form)
        del given[name]
    try:
        return msgspec.convert(given, type=form)
    except msgspec.ValidationError as error:
        raise _mistyped(str(error)) from error


def _is_neutral(name: str, given: dict[str, Any]) -> bool:
    value = given[name]
    if name == "best_of":
        return type(value) is int and value in (1, given.get("n", 1))
    return name in _NEUTRAL and type(value) is type(_NEUTRAL[name]) and value == _NEUTRAL[name]


def _unsupported(name: str, form: type[Body]) -> RequestError:
    if name in _NEUTRAL:
        problem = "has no value but its default here; remove it"
    else:
        advice = advise_name(name, form.__struct_fields__, "remove it")
        problem = f"is not supported; {advice}"
    return RequestError(f"{name} {problem}", param=name, code="unsupported_field")


def _mistyped(problem: str) -> RequestError:
    """msgspec's words, with the field first: ``Expected `int`, got `str` - at `$.n```."""
    what, _, where = problem.partition(" - at ")
    path = where.strip("`").removeprefix("$.")
    name = re.split(r"[.\[]", path)[0]
    return RequestError(f"{path}: {what[:1].lower()}{what[1:]}; correct it", param=name)


def sampling_params(body: ChatBody | CompletionBody) -> SamplingParams:
    """How the tokens of this body are chosen; RequestError names a field out of range."""
    asked = {name: getattr(body, name) for name in _SAMPLING}
    chosen = {name: value for name, value in asked.items() if value is not None}
    try:
        return SamplingParams(
            **chosen,
            max_tokens=_max_tokens(body),
            logprobs=_logprobs(body),
            prompt_logprobs=_prompt_logprobs(body),
            logit_bias=_logit_bias(body),
            structured_outputs=read_structured(body),
        )
    except ValueError as error:
        name, _, rule = str(error).partition(" ")
        name = _spelling(name, body)
        raise RequestError(f"{name} {rule}; correct it", param=name) from error


def _spelling(name: str, body: Body) -> str:
    """What the sampling parameter ``name`` was called in ``body``."""
    if name == "max_tokens" and body.max_tokens is None:
        return "max_completion_tokens"
    return "top_logprobs" if name == "logprobs" and isinstance(body, ChatBody) else name


def _max_tokens(body: ChatBody | CompletionBody) -> int | None:
    one, other = body.max_tokens, body.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise RequestError(
            f"max_tokens is {one} but max_completion_tokens is {other}; give one of them",
            param="max_tokens",
        )
    given = other if one is None else one
    if given == 0 and not (isinstance(body, CompletionBody) and body.echo):
        raise ValueError("max_tokens must be at least 1, or 0 with echo, not 0")
    # OpenAI's defaults: 16 for a completion, as long as it takes for a chat.
    return 16 if given is None and isinstance(body, CompletionBody) else given


def _logprobs(body: ChatBody | CompletionBody) -> int | None:
    if isinstance(body, CompletionBody):
        return body.logprobs
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise RequestError(
            "top_logprobs needs logprobs; set logprobs to true", param="top_logprobs"
        )
    return None


def _prompt_logprobs(body: ChatBody | CompletionBody) -> int | None:
    """As many as any field asks for: an echo shows the prompt's beside the answer's."""
    echoed = body.logprobs if isinstance(body, CompletionBody) and body.echo else None
    asked = [wish for wish in (body.prompt_logprobs, echoed) if wish is not None]
    return max(asked, default=None)


def _logit_bias(body: Body) -> dict[int, float]:
    given = body.logit_bias or {}
    for key in given:
        if not _TOKEN_ID.fullmatch(key):
            raise RequestError(
                f'logit_bias: {key[:40]!r} is not a token id; write keys like "42"',
                param="logit_bias",
            )
    return {int(key): bias for key, bias in given.items()}
