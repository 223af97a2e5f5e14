"""Lines for /v1/responses: a chat in another form, and its answer in that form."""

from collections.abc import Mapping
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.jobs.chat_messages import read_messages
from glinthawk.jobs.replies import ChatReply

__all__ = ["chat_body", "response_body", "to_response_name"]

#: What the fields of a chat are called here; None: they have no like.
_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning",
    "response_format": "text",
    "logprobs": "top_logprobs",
    "n": None,
    "continue_final_message": None,
    "add_generation_prompt": None,
    "prompt_logprobs": None,
    "return_token_ids": None,
}
#: Fields that change nothing with one of these values.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "parallel_tool_calls": (True, False),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "truncation": ("disabled",),
}
_LOGPROBS = "message.output_text.logprobs"
_FIELDS = ("include", "input", "instructions", "max_output_tokens", "reasoning", "text")


def to_response_name(name: str) -> str:
    """What a chat's field is called here."""
    return _NAMES.get(name) or name


def chat_body(body: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """``body`` as that of a chat, and what its answer repeats. Fields of a name that is not known
    are left in, for the chat to judge. Raises RequestError."""
    if not isinstance(body, dict):
        raise RequestError("body must be an object; see the README for an example", param="body")
    given = {name: value for name, value in body.items() if value is not None}
    chat = {name: value for name, value in given.items() if name not in _FIELDS}
    for name in list(chat):
        _check(name, chat[name])
        if name in _NEUTRAL:
            del chat[name]
    chat["messages"] = _messages(given)
    if "max_output_tokens" in given:
        chat["max_completion_tokens"] = given["max_output_tokens"]
    chat |= _logprobs(given, chat) | _format(given) | _effort(given)
    return chat, _echoed(given)


def response_body(
    head: Mapping[str, Any],
    echoed: Mapping[str, Any],
    reply: ChatReply,
    *,
    is_cut: bool,
    logprobs: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """The answer. ``head`` has id, created_at, model and usage; ``is_cut`` says that it came to its
    length."""
    number = str(head["id"]).partition("_")[2]
    status = "incomplete" if is_cut else "completed"
    output: list[dict[str, Any]] = []
    if reply.reasoning is not None:
        text = {"type": "reasoning_text", "text": reply.reasoning}
        thoughts = {"id": f"rs_{number}", "type": "reasoning", "summary": [], "content": [text]}
        output.append({**thoughts, "status": status})
    said = {"type": "output_text", "text": reply.content or "", "annotations": []}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": status}
    output.append({**message, "content": [{**said, "logprobs": logprobs or []}]})
    return {
        "id": head["id"],
        "object": "response",
        "created_at": head["created_at"],
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "model": head["model"],
        "output": output,
        **echoed,
        "usage": head["usage"],
    }


def _check(name: str, value: Any) -> None:
    if name in _NAMES:
        like = f"write {_NAMES[name]}" if _NAMES[name] else "use /v1/chat/completions"
        problem = f"{name} is not supported by /v1/responses; {like}"
    elif name in _NEUTRAL and value not in _NEUTRAL[name]:
        problem = f"{name} has no value but its default here; use /v1/chat/completions"
    else:
        return
    raise RequestError(problem, param=name, code="unsupported_field")


def _echoed(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": given.get("metadata", {}),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None} | given.get("reasoning", {}),
        "temperature": given.get("temperature"),
        "text": {"format": {"type": "text"}} | given.get("text", {}),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [],
        "top_p": given.get("top_p"),
        "truncation": "disabled",
    }


def _messages(given: dict[str, Any]) -> object:
    said = given.get("input")
    if isinstance(said, str):
        said = [{"role": "user", "content": said}]
    if not isinstance(said, list) or not said:
        raise RequestError("input must be a string or a list of messages; give one", param="input")
    messages = [_message(item, f"input[{i}]") for i, item in enumerate(said)]
    instructions = given.get("instructions")
    if instructions is None:
        return messages
    if not isinstance(instructions, str):
        raise RequestError("instructions must be a string; correct it", param="instructions")
    return [{"role": "system", "content": instructions}, *messages]


def _message(item: Any, where: str) -> Any:
    """Checked, and without what an answer has that is sent back."""
    if isinstance(item, dict) and item.get("type", "message") != "message":
        raise RequestError(
            f"{where} is of type {item['type']}; messages are supported alone, so remove it",
            param="input",
        )
    if isinstance(item, dict):
        item = {name: it for name, it in item.items() if name not in ("id", "status", "type")}
    try:
        read_messages([item])
    except RequestError as error:
        said = str(error).replace("messages[0]", where)
        raise RequestError(said, param=str(error.param).replace("messages[0]", where)) from error
    return item


def _logprobs(given: dict[str, Any], chat: dict[str, Any]) -> dict[str, Any]:
    wanted = given.get("include", [])
    if wanted not in ([], [_LOGPROBS]):
        raise RequestError(f'include may be ["{_LOGPROBS}"]; correct it', param="include")
    if "top_logprobs" in chat or wanted:
        return {"logprobs": True}
    return {}


def _format(given: dict[str, Any]) -> dict[str, Any]:
    text = _object(given, "text", ("format", "verbosity"))
    if text.get("verbosity", "medium") not in ("medium", None):
        raise RequestError("text.verbosity has no value but medium here; remove it", param="text")
    form = text.get("format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return {"response_format": form} if form is not None else {}
    schema = {name: value for name, value in form.items() if name != "type"}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _effort(given: dict[str, Any]) -> dict[str, Any]:
    reasoning = _object(given, "reasoning", ("effort", "summary", "generate_summary"))
    for name in ("summary", "generate_summary"):
        if reasoning.get(name) not in (None, "auto"):
            raise RequestError(
                f"reasoning.{name}: thoughts are given whole, and not summed up; leave it out",
                param="reasoning",
            )
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _object(given: dict[str, Any], name: str, fields: tuple[str, ...]) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict) or value.keys() - {*fields}:
        raise RequestError(f"{name} must be an object of {', '.join(fields)}", param=name)
    return value
