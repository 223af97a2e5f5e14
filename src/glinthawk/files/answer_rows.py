"""What a result line says, as a row of a table."""

from array import array
from base64 import b64decode
from typing import Any

import msgspec

__all__ = ["ANSWER_COLUMNS", "read_answer"]

#: Columns, by their types in Arrow.
ANSWER_COLUMNS = {
    "custom_id": "string",
    "answer": "string",
    "finish_reason": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "error": "string",
    "error_code": "string",
    "response": "string",
    "embedding": "list<float>",
}

_results = msgspec.json.Decoder(dict[str, Any])
#: Of a body, a choice and its message, what the table has in columns or says of every answer.
_BODY = {"id", "object", "created", "model", "choices", "usage"}
_CHOICE = {"index", "text", "message", "finish_reason"}
_MESSAGE = {"role", "content"}


def read_answer(result: bytes) -> tuple[Any, ...]:
    """A value for each of ``ANSWER_COLUMNS``.

    ``response`` is the body's JSON where the other columns do not say all of it: of several
    choices, tool calls, log-probabilities (a prompt's too), of what is no text, of scores and of
    several embeddings; one alone is ``embedding``.
    """
    whole = _results.decode(result)
    custom_id = whole["custom_id"]
    body = (whole.get("response") or {}).get("body") or {}
    problem = whole.get("error") or body.get("error")
    if problem:
        code = problem.get("code")
        told = problem.get("message"), None if code is None else str(code)
        return custom_id, None, None, None, None, *told, None, None
    usage = body.get("usage") or {}
    choices, vector = body.get("choices") or [], _embedding(body)
    answer, reason = _first(choices) if choices else (_text_of(body), body.get("status"))
    return (
        custom_id,
        answer,
        reason,
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        None,
        None,
        None if vector or _says_all(body) else msgspec.json.encode(body).decode(),
        vector,
    )


def _embedding(body: dict[str, Any]) -> list[float] | None:
    """Of a line with one input; several stand in the response."""
    data = body.get("data") or []
    vector = data[0].get("embedding") if len(data) == 1 else None
    if isinstance(vector, str):
        return array("f", b64decode(vector)).tolist()
    return vector


def _first(choices: list[dict[str, Any]]) -> tuple[str | None, str | None]:
    first = choices[0]
    text = first["text"] if "text" in first else (first.get("message") or {}).get("content")
    return text, first.get("finish_reason")


def _text_of(body: dict[str, Any]) -> str | None:
    """Of a body of /v1/responses."""
    parts = [
        part["text"]
        for item in body.get("output") or []
        for part in item.get("content") or []
        if isinstance(part.get("text"), str)
    ]
    return "".join(parts) if parts else None


def _says_all(body: dict[str, Any]) -> bool:
    choices = body.get("choices") or []
    if len(choices) != 1:
        return False
    (choice,) = choices
    message = choice.get("message") or {}
    more = {name for name, value in body.items() if value is not None} - _BODY
    more |= {name for name, value in choice.items() if value is not None} - _CHOICE
    return not more and not {name for name, value in message.items() if value} - _MESSAGE
