"""Tools in words, for chat templates that know none: offered, called and answered in messages."""

import json
from typing import Any

__all__ = ["TOLD_FORMAT", "tell_tools"]

_Message = dict[str, Any]

#: What models are asked to write: the way of Hermes.
TOLD_FORMAT = "hermes"
_OFFER = (
    "You may call these functions, one JSON object a line:\n{tools}\n"
    'To call one, write <tool_call>{{"name": NAME, "arguments": OBJECT}}</tool_call>. '
    "If none helps, answer without a call."
)


def tell_tools(messages: list[_Message], tools: list[dict[str, Any]] | None) -> list[_Message]:
    """``messages`` in which tools are text alone: the system offers ``tools``, the assistant writes
    its calls, the user says what came of them."""
    told = [_tell(message) for message in messages]
    if not tools:
        return told
    functions = "\n".join(_write(tool["function"]) for tool in tools)
    offer = _OFFER.format(tools=functions)
    if told[0]["role"] in ("system", "developer"):
        return [{**told[0], "content": _joined(told[0]["content"], offer)}, *told[1:]]
    return [{"role": "system", "content": offer}, *told]


def _tell(message: _Message) -> _Message:
    if message["role"] == "tool":
        content = _joined("<tool_response>", message["content"], "</tool_response>")
        return {"role": "user", "content": content}
    if "tool_calls" not in message:
        return message
    calls = [f"<tool_call>{_write(call['function'])}</tool_call>" for call in message["tool_calls"]]
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": _joined(message["content"], *calls)}


def _joined(*contents: str | list[dict[str, str]]) -> str:
    texts = []
    for content in contents:
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        texts += [part for part in parts if part]
    return "\n".join(texts)


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
