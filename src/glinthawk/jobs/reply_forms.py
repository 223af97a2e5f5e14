"""How the text of an answer is to be read: by the model's chat template, or as the job says."""

from collections.abc import Sequence

from glinthawk.core.errors import RequestError
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.reasoning import find_reasoning, is_closed, is_open
from glinthawk.jobs.replies import ReplyForm
from glinthawk.jobs.text import Text
from glinthawk.jobs.tools.told_tools import TOLD_FORMAT
from glinthawk.jobs.tools.tool_fields import ToolWish
from glinthawk.jobs.tools.tool_formats import TOOL_FORMATS, find_tool_format

__all__ = ["choose_reply_form"]

#: Tokens at the end of a prompt among which templates begin thoughts, or end them.
_TAIL = 32


def choose_reply_form(
    text: Text,
    prompt: Sequence[int],
    rules: LineRules,
    tools: ToolWish | None,
    *,
    is_free: bool,
) -> ReplyForm:
    """For an answer to the chat that became ``prompt``. One that is held to a structure is no
    thought, so only an answer that ``is_free`` has any. Raises RequestError for tools that nobody
    could see called."""
    template = text.template
    tool_format = _tool_format(text, template, rules) if tools is not None else None
    if tools is not None and not tools.is_forced and tool_format is None:
        raise RequestError(
            "how this model calls tools is not known; say it with --tool-call-parser (one of "
            f"{', '.join(TOOL_FORMATS)}), or give tool_choice none or required",
            param="tools",
        )
    reasoning = _reasoning(template, rules) if is_free else None
    tail = "".join(map(text.token_text, prompt[-_TAIL:])) if reasoning else ""
    if reasoning is not None and is_closed(reasoning, tail):
        reasoning = None
    return ReplyForm(
        tools=tools,
        tool_format=tool_format,
        reasoning=reasoning,
        in_reasoning=reasoning is not None and is_open(reasoning, tail),
    )


def _tool_format(text: Text, template: str, rules: LineRules) -> str | None:
    if not text.knows_tools:
        return TOLD_FORMAT
    if rules.tool_call_parser != "auto":
        return rules.tool_call_parser
    return find_tool_format(template)


def _reasoning(template: str, rules: LineRules) -> str | None:
    if rules.reasoning_parser == "none":
        return None
    return find_reasoning(template) if rules.reasoning_parser == "auto" else rules.reasoning_parser
