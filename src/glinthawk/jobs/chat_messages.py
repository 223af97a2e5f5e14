"""The ``messages`` of a chat, checked by hand so that an error says which one and what is wrong."""

import json
from typing import Any

from glinthawk.core.errors import RequestError

__all__ = ["read_messages"]

_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
#: Of answers that are sent back as OpenAI's client writes them out; empty, they say nothing.
_EMPTY = ("tool_calls", "audio", "function_call", "refusal")
#: What these say is not for the model.
_IDLE = ("annotations", "cache_control")
#: Other names of fields and parts.
_ALIASES = {"reasoning": "reasoning_content"}
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_PART_FIELDS = {"type", "text", "refusal", "logprobs", *_IDLE}


def read_messages(messages: object) -> list[dict[str, Any]]:
    """Messages as chat templates take them: content is a string or a list of text parts, and the
    arguments of tool calls are objects.

    >>> read_messages([{"role": "user", "content": "Hello", "name": None}])
    [{'role': 'user', 'content': 'Hello'}]
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError(
            "messages must be a list of objects with role and content, and not empty",
            param="messages",
        )
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RequestError(f"{where} must be an object with role and content", param=where)
    given = _said(message)
    for name in given:
        if name not in _FIELDS:
            raise RequestError(
                f"{where}.{name} is not supported; a message has {', '.join(_FIELDS)}",
                param=f"{where}.{name}",
            )
    read: dict[str, Any] = {"role": _string(given.get("role"), f"{where}.role")}
    # Beside calls, nothing need be said.
    content = given.get("content", "" if "tool_calls" in given else None)
    read["content"] = _content(content, f"{where}.content")
    for name in ("name", "tool_call_id", "reasoning_content"):
        if name in given:
            read[name] = _string(given[name], f"{where}.{name}")
    if "tool_calls" in given:
        read["tool_calls"] = _tool_calls(given["tool_calls"], f"{where}.tool_calls")
    return read


def _said(message: dict[str, Any]) -> dict[str, Any]:
    """The fields that say something, each by one name; a refusal is what was said."""
    given = {
        _ALIASES.get(name, name): value
        for name, value in message.items()
        if value is not None
        and name not in _IDLE
        and not (name in _EMPTY and value in ([], {}, ""))
    }
    if "refusal" in given:
        refusal = given.pop("refusal")
        given.setdefault("content", refusal)
    return given


def _content(content: Any, where: str) -> str | list[dict[str, str]]:
    if not isinstance(content, list):
        return _string(content, where, "a string or a list of text parts")
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _part(part: Any, where: str) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _TEXTS or part.keys() - _PART_FIELDS:
        raise RequestError(
            f'{where} must be {{"type": "text", "text": ...}}; other parts are not supported',
            param=where,
        )
    name = _TEXTS[kind]
    return {"type": "text", "text": _string(part.get(name), f"{where}.{name}")}


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"{where} must be a list of calls", param=where)
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise RequestError(
            f'{where} must be {{"id": ..., "type": "function", "function": {{"name": ..., '
            '"arguments": ...}}; correct it',
            param=where,
        )
    name = _string(function.get("name"), f"{where}.function.name")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    read: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call.get("id") is not None:
        read["id"] = _string(call["id"], f"{where}.id")
    return read


def _arguments(arguments: Any, where: str) -> dict[str, Any]:
    """As an object, which templates want; the API has it as its text."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"{where} must be the text of a JSON object ({error}); correct it", param=where
            ) from error
    if not isinstance(arguments, dict):
        raise RequestError(f"{where} must be the text of a JSON object; correct it", param=where)
    return arguments


def _string(value: object, where: str, wanted: str = "a string") -> str:
    if not isinstance(value, str):
        found = "missing" if value is None else f"of type {type(value).__name__}"
        raise RequestError(f"{where} must be {wanted} but is {found}", param=where)
    return value
