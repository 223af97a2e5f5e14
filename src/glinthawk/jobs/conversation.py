"""A conversation as a chat template takes it: messages, and what else is said to the template."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glinthawk.core.errors import RequestError
from glinthawk.jobs.body import ChatBody
from glinthawk.jobs.tools.tool_fields import read_tools

__all__ = ["Conversation", "read_conversation"]

#: Of the template's arguments, those that have fields of their own, or are not to be had.
_RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """``messages`` are unchecked. ``extras`` are variables that the template may know."""

    messages: object
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.add_generation_prompt and self.continue_final_message:
            raise RequestError(
                "continue_final_message goes on with the last message, and add_generation_prompt "
                "begins a new one; set one of them to false",
                param="continue_final_message",
            )
        for name in self.extras:
            if name in _RESERVED:
                raise RequestError(
                    f"chat_template_kwargs.{name} is not for the template alone; write it as a "
                    "field of the body if there is one, or remove it",
                    param="chat_template_kwargs",
                )


def read_conversation(body: ChatBody) -> Conversation:
    """What ``body`` says to the template."""
    wish = read_tools(body) if body.tools else None
    goes_on = bool(body.continue_final_message)
    begins = not goes_on if body.add_generation_prompt is None else body.add_generation_prompt
    extras = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        extras.setdefault("reasoning_effort", body.reasoning_effort)
    if body.reasoning_effort == "none":
        # What templates call it that know of no effort.
        extras.setdefault("enable_thinking", False)
    return Conversation(
        messages=body.messages,
        tools=list(wish.tools) if wish else None,
        documents=body.documents,
        add_generation_prompt=begins,
        continue_final_message=goes_on,
        extras=extras,
    )
