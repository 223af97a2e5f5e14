"""From what a model wrote in a chat to what it says, what it thought and which tools it calls."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glinthawk.jobs.reasoning import split_marked, split_reasoning
from glinthawk.jobs.tools.tool_calls import Said, ToolCall, read_forced
from glinthawk.jobs.tools.tool_fields import ToolWish
from glinthawk.jobs.tools.tool_formats import TOOL_FORMATS

__all__ = ["ChatReply", "ReplyForm", "call_id", "read_reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyForm:
    """How an answer's text is read. ``reasoning`` and ``tool_format`` are names of formats."""

    tools: ToolWish | None = None
    tool_format: str | None = None
    reasoning: str | None = None
    #: Whether the prompt ends among thoughts.
    in_reasoning: bool = False
    #: Whether the answer is held to a structure, behind its thoughts.
    is_structured: bool = False
    #: Whether special tokens are in the text for its reader alone.
    hides_special: bool = False
    #: Of a body for /v1/responses, what its answer repeats.
    echoed: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ChatReply:
    """``content`` is None where there are calls alone."""

    content: str | None
    reasoning: str | None = None
    calls: tuple[ToolCall, ...] = ()


def read_reply(form: ReplyForm, text: str, special: Mapping[int, str]) -> ChatReply:
    """``text`` is the whole answer, with ``special`` tokens spelled where they are hidden later."""
    thoughts = None
    if form.reasoning is not None:
        split = split_marked if form.is_structured else split_reasoning
        thoughts, text = split(form.reasoning, text, form.in_reasoning)
    said = _read_calls(form, text)
    content, calls = said.text, said.calls
    if form.tools is not None and not form.tools.is_parallel:
        calls = calls[:1]
    if form.hides_special:
        content, thoughts = _hide(content, special), thoughts and _hide(thoughts, special)
    return ChatReply(None if calls and not content else content, thoughts, calls)


def call_id(form: ReplyForm, custom_id: str, seed: int, number: int) -> str:
    """The same for the same answer, whenever it is written."""
    key = f"{seed} {number} {custom_id}".encode()
    digest = hashlib.blake2b(key, digest_size=12).hexdigest()
    length = TOOL_FORMATS[form.tool_format].id_length if form.tool_format else 0
    return digest[:length] if length else f"call_{digest}"


def _read_calls(form: ReplyForm, text: str) -> Said:
    if form.tools is None:
        return Said(text)
    if form.tools.is_forced:
        return read_forced(text, form.tools.name)
    assert form.tool_format is not None
    return TOOL_FORMATS[form.tool_format].read(text)


def _hide(text: str, special: Mapping[int, str]) -> str:
    for name in special.values():
        text = text.replace(name, "")
    return text
