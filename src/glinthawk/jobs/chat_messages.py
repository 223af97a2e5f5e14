"""The ``messages`` of a chat, checked by hand so that an error says which one and what is wrong."""

from typing import Any

from glinthawk.core.errors import RequestError

__all__ = ["read_messages"]

_FIELDS = ("role", "content", "name")


def read_messages(messages: object) -> list[dict[str, Any]]:
    """Messages as chat templates take them: content is a string or a list of text parts.

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
    given = {name: value for name, value in message.items() if value is not None}
    for name in given:
        if name not in _FIELDS:
            raise RequestError(
                f"{where}.{name} is not supported; a message has {', '.join(_FIELDS)}",
                param=f"{where}.{name}",
            )
    read = {
        "role": _string(given.get("role"), f"{where}.role"),
        "content": _content(given.get("content"), f"{where}.content"),
    }
    if "name" in given:
        read["name"] = _string(given["name"], f"{where}.name")
    return read


def _content(content: Any, where: str) -> str | list[dict[str, str]]:
    if not isinstance(content, list):
        return _string(content, where, "a string or a list of text parts")
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _part(part: Any, where: str) -> dict[str, str]:
    if not isinstance(part, dict) or part.get("type") != "text" or part.keys() - {"type", "text"}:
        raise RequestError(
            f'{where} must be {{"type": "text", "text": ...}}; other parts are not supported',
            param=where,
        )
    return {"type": "text", "text": _string(part.get("text"), f"{where}.text")}


def _string(value: object, where: str, wanted: str = "a string") -> str:
    if not isinstance(value, str):
        found = "missing" if value is None else f"of type {type(value).__name__}"
        raise RequestError(f"{where} must be {wanted} but is {found}", param=where)
    return value
