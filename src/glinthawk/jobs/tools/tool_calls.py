"""What models write when they call tools, read back: a function a way of writing."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Said",
    "ToolCall",
    "harmony_messages",
    "read_forced",
    "read_functions",
    "read_harmony",
    "read_json",
    "read_marked",
    "read_pairs",
    "read_tagged",
]

_TAGS = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` are the text of a JSON object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """An answer's words, and the calls in it."""

    text: str
    calls: tuple[ToolCall, ...] = ()


def read_tagged(text: str) -> Said:
    """Hermes, Qwen: an object between tags. One that is cut off, or no call, is text.

    >>> read_tagged('So: <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')
    Said(text='So:', calls=(ToolCall(name='f', arguments='{"a": 1}'),))
    """
    return _pick(text, _objects)


def read_functions(text: str) -> Said:
    """Qwen3-Coder: a tag for the function and one for each parameter."""
    return _pick(text, _functions)


def read_pairs(text: str) -> Said:
    """GLM-4.5: the function's name, then a tag for each key and value."""
    return _pick(text, _keyed)


def read_json(text: str) -> Said:
    """Llama 3: the whole answer is a call, or several with semicolons between them.

    >>> read_json('<|python_tag|>{"name": "f", "parameters": {}}').calls
    (ToolCall(name='f', arguments='{}'),)
    """
    body = text.strip().removeprefix("<|python_tag|>")
    calls = tuple(_objects(body)) if body.lstrip().startswith(("{", "[")) else ()
    return Said("", calls) if calls else Said(text)


def read_marked(text: str) -> Said:
    """Mistral: behind a mark a list of calls, or names with their arguments, each with a mark.

    >>> read_marked('[TOOL_CALLS]f[ARGS]{"a": 1}').calls
    (ToolCall(name='f', arguments='{"a": 1}'),)
    """
    before, *rest = text.split("[TOOL_CALLS]")
    calls: list[ToolCall] = []
    for part in rest:
        found = list(_objects(part)) or list(_named(part))
        if not found:
            return Said(text)
        calls += found
    return Said(before.strip(), tuple(calls)) if calls else Said(text)


def read_harmony(text: str) -> Said:
    """gpt-oss: messages to functions; those to nobody are text."""
    words, calls = [], []
    for header, body in harmony_messages(text):
        to = re.search(r"to=functions\.([\w.-]+)", header)
        if to is not None and _is_object(body):
            calls.append(ToolCall(to[1], body.strip()))
        else:
            words.append(body)
    return Said("\n".join(words), tuple(calls))


def harmony_messages(text: str) -> Iterator[tuple[str, str]]:
    """Header and body of each message; text that is none has an empty header."""
    for message in text.split("<|start|>"):
        header, mark, body = message.partition("<|message|>")
        if not mark:
            header, body = "", message
        body = re.split(r"<\|(?:end|call|return)\|>", body)[0]
        if mark or body.strip():
            yield header, body


def read_forced(text: str, name: str | None) -> Said:
    """Of an answer that was held to calls: a list of them, or the arguments of ``name``. What was
    cut off is text."""
    if name is not None:
        return Said("", (ToolCall(name, text.strip()),)) if _is_object(text) else Said(text)
    calls = tuple(_objects(text))
    return Said("", calls) if calls else Said(text)


def _pick(text: str, read: Callable[[str], Iterator[ToolCall]]) -> Said:
    """Calls between tags, as ``read`` finds them there, and the text around them."""
    calls: list[ToolCall] = []

    def take(found: re.Match[str]) -> str:
        there = list(read(found[1]))
        calls.extend(there)
        return "" if there else found[0]

    left = _TAGS.sub(take, text)
    return Said(left.strip(), tuple(calls)) if calls else Said(text)


def _objects(text: str) -> Iterator[ToolCall]:
    """Calls in JSON, one behind another or in a list; none if anything else stands there."""
    decoder, place, calls = json.JSONDecoder(), 0, []
    while (place := _skip(text, place)) < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return
        calls += value if isinstance(value, list) else [value]
    read = [_call(value) for value in calls]
    if None not in read:
        yield from (call for call in read if call is not None)


def _skip(text: str, place: int) -> int:
    found = re.compile(r"[\s;]*").match(text, place)
    assert found is not None
    return found.end()


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str) and _is_object(arguments):
        return ToolCall(value["name"], arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))


def _named(text: str) -> Iterator[ToolCall]:
    form = r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{.*\})\s*"
    found = re.fullmatch(form, text, re.DOTALL)
    if found is not None and _is_object(found[2]):
        yield ToolCall(found[1], found[2])


def _functions(text: str) -> Iterator[ToolCall]:
    for name, body in re.findall(r"<function=([^>\n]+)>(.*?)</function>", text, re.DOTALL):
        pairs = re.findall(r"<parameter=([^>\n]+)>(.*?)</parameter>", body, re.DOTALL)
        arguments = {key.strip(): _value(text.strip("\n")) for key, text in pairs}
        yield ToolCall(name.strip(), json.dumps(arguments, ensure_ascii=False))


def _keyed(text: str) -> Iterator[ToolCall]:
    name, _, rest = text.partition("<arg_key>")
    form = r"(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*(?:<arg_key>|\Z)"
    arguments = {key.strip(): _value(value) for key, value in re.findall(form, rest, re.DOTALL)}
    if re.fullmatch(r"\s*[\w.-]+\s*", name) and (arguments or not rest):
        yield ToolCall(name.strip(), json.dumps(arguments, ensure_ascii=False))


def _value(text: str) -> Any:
    """As JSON where it is; the tool's schema says what is meant, which nobody asks here."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
