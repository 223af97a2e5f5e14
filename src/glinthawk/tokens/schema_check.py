"""What a JSON schema asks for that llguidance would take and not keep to."""

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["check_schema"]

#: Keywords that map names to schemas, and those whose values are no schemas.
_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_VALUES = {"const", "enum", "default", "examples", "x-guidance"}
#: Characters that strings of JSON have as \uXXXX alone.
_CONTROLS = {chr(code) for code in range(32)} - {*"\b\f\n\r\t"}


def check_schema(text: str) -> str:
    """The schema as llguidance takes it. Raises ValueError for one whose answers could be wrong;
    what is no JSON passes, as llguidance says that better."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if any(not _CONTROLS.isdisjoint(string) for string in _strings(schema)):
        raise ValueError("not supported: control characters in the schema's strings")
    if any(_may_repeat_names(inner) for inner in _schemas(schema)):
        raise ValueError(
            'not supported: keyword "minProperties" for more than one property beyond those that '
            'are "required", as an answer could repeat a name'
        )
    return "{}" if schema is True else text


def _strings(data: Any) -> Iterator[str]:
    """All of them, names too; without recursion, as data may be deep."""
    waiting = [data]
    while waiting:
        match waiting.pop():
            case str() as string:
                yield string
            case list() as items:
                waiting += items
            case dict() as members:
                waiting += [*members, *members.values()]


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """It and all schemas in it that are objects."""
    waiting = [schema]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, list):
            waiting += inner
        elif isinstance(inner, dict):
            yield inner
            for keyword, value in inner.items():
                if keyword in _MAPS and isinstance(value, dict):
                    waiting += value.values()
                elif keyword not in _VALUES:
                    waiting.append(value)


def _may_repeat_names(schema: dict[str, Any]) -> bool:
    least, required = schema.get("minProperties"), schema.get("required")
    names = {*map(str, required)} if isinstance(required, list) else set()
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return isinstance(least, int | float) and least > len(names) + 1 and not is_closed
