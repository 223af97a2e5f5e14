"""The ``body`` of a line: the fields of both APIs, by type, and nothing else."""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.core.vllm_params import VllmParams
from glinthawk.jobs.line_envelope import Kind
from glinthawk.jobs.other_fields import check_other
from glinthawk.jobs.structured_fields import StructuredFields, read_structured

__all__ = [
    "Body",
    "ChatBody",
    "CompletionBody",
    "Effort",
    "as_whole",
    "read_body",
    "read_form",
    "sampling_params",
]

_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Stops = Annotated[list[str], msgspec.Meta(max_length=16)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

#: Fields that mean in a body what they mean in SamplingParams; of the others each API says its own.
_OWN = {"max_tokens", "logprobs", "prompt_logprobs", "logit_bias", "structured_outputs"}
#: What vLLM's have beside them changes nothing in a line.
_SAMPLING = {one.name for one in fields(SamplingParams)} - {one.name for one in fields(VllmParams)}
_SAMPLING -= _OWN

_Form = TypeVar("_Form", bound=msgspec.Struct)

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
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    truncate_prompt_tokens: _Int | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    user: str | None = None


class ChatBody(Body, kw_only=True):
    """Body of a line for /v1/chat/completions."""

    messages: Any = None
    logprobs: bool | None = None
    top_logprobs: _Int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(Body, kw_only=True):
    """Body of a line for /v1/completions."""

    prompt: Any = None
    logprobs: _Int | None = None
    echo: bool | None = None


def read_body(kind: Kind, body: object, *, strict: bool = False) -> ChatBody | CompletionBody:
    """``body`` of a line whose answer is text; as ``read_form``."""
    if kind == "completion":
        return read_form(CompletionBody, body, strict=strict)
    return read_form(ChatBody, body, strict=strict)


def read_form(form: type[_Form], body: object, *, strict: bool = False) -> _Form:
    """``body`` with every field of the right type; RequestError names a field that is not. Fields
    that change nothing are passed over; ``strict`` refuses most of them."""
    if not isinstance(body, dict):
        raise RequestError("body must be an object; see the README for an example", param="body")
    given = {name: value for name, value in body.items() if value is not None}
    for name in list(given.keys() - set(form.__struct_fields__)):
        check_other(name, given, form.__struct_fields__, strict)
        del given[name]
    try:
        return msgspec.convert(given, type=form)
    except msgspec.ValidationError:
        pass
    for name in given.keys() & _whole_numbers(form):
        given[name] = as_whole(given[name])
    try:
        return msgspec.convert(given, type=form)
    except msgspec.ValidationError as error:
        raise _mistyped(str(error)) from error


@cache
def _whole_numbers(form: type[msgspec.Struct]) -> frozenset[str]:
    """Fields of whole numbers, one or a list."""
    hints = get_type_hints(form)
    whole = {int, list[int]}
    return frozenset(name for name, kind in hints.items() if whole & {*get_args(kind)})


def as_whole(value: Any) -> Any:
    """Tables make 4.0 of 4."""
    if isinstance(value, list):
        return [as_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mistyped(problem: str) -> RequestError:
    """msgspec's words, with the field first: ``Expected `int`, got `str` - at `$.n```."""
    what, _, where = problem.partition(" - at ")
    path = where.strip("`").removeprefix("$.")
    name = re.split(r"[.\[]", path)[0]
    return RequestError(f"{path}: {what[:1].lower()}{what[1:]}; correct it", param=name)


def sampling_params(
    body: ChatBody | CompletionBody,
    defaults: Mapping[str, Any] | None = None,
    wanted: StructuredOutputsParams | None = None,
) -> SamplingParams:
    """How the tokens of this body are chosen; RequestError names a field out of range. ``defaults``
    are the model's own; ``wanted`` is what its answer must look like by other fields."""
    asked = {name: getattr(body, name) for name in _SAMPLING}
    chosen = {name: value for name, value in asked.items() if value is not None}
    known = dict(defaults or {})
    longest = known.pop("max_tokens", None)
    try:
        return SamplingParams(
            **known | chosen,
            max_tokens=_max_tokens(body, longest),
            logprobs=_logprobs(body),
            prompt_logprobs=_prompt_logprobs(body),
            logit_bias=_logit_bias(body),
            structured_outputs=wanted or read_structured(body),
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


def _max_tokens(body: ChatBody | CompletionBody, longest: int | None) -> int | None:
    one, other = body.max_tokens, body.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise RequestError(
            f"max_tokens is {one} but max_completion_tokens is {other}; give one of them",
            param="max_tokens",
        )
    given = other if one is None else one
    if given == 0 and not (isinstance(body, CompletionBody) and body.echo):
        raise ValueError("max_tokens must be at least 1, or 0 with echo, not 0")
    if given is not None:
        return given
    # OpenAI's defaults: 16 for a completion, as long as it takes for a chat.
    if isinstance(body, CompletionBody):
        return 16
    return None if longest is None else max(longest, body.min_tokens or 0)


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
