"""How the text of an answer is to be read: by the model's chat template, or as the job says."""

from collections.abc import Sequence

from glinthawk.core.errors import RequestError
from glinthawk.core.structured_outputs import Thoughts
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.reasoning import REASONING_FORMATS, find_reasoning, is_closed, is_open
from glinthawk.jobs.replies import ReplyForm
from glinthawk.jobs.text import Text
from glinthawk.jobs.tools.told_tools import TOLD_FORMAT
from glinthawk.jobs.tools.tool_fields import ToolWish
from glinthawk.jobs.tools.tool_formats import TOOL_FORMATS, find_tool_format

__all__ = ["choose_reply_form", "find_thoughts"]

#: Tokens at the end of a prompt among which templates begin thoughts, or end them.
_TAIL = 32


def choose_reply_form(
    text: Text,
    prompt: Sequence[int],
    rules: LineRules,
    tools: ToolWish | None,
    *,
    structure: str | None = None,
) -> ReplyForm:
    """For an answer to the chat that became ``prompt``, held to a ``structure`` of that kind, or
    free. Raises RequestError for tools that nobody could see called."""
    template = text.template
    tool_format = _tool_format(text, template, rules) if tools is not None else None
    if tools is not None and not tools.is_forced and tool_format is None:
        raise RequestError(
            "how this model calls tools is not known; say it with --tool-call-parser (one of "
            f"{', '.join(TOOL_FORMATS)}), or give tool_choice none or required",
            param="tools",
        )
    reasoning = _reasoning(template, rules)
    if structure is not None and not _can_precede(reasoning, structure):
        reasoning = None
    tail = "".join(map(text.token_text, prompt[-_TAIL:])) if reasoning else ""
    if reasoning is not None and is_closed(reasoning, tail):
        reasoning = None
    return ReplyForm(
        tools=tools,
        tool_format=tool_format,
        reasoning=reasoning,
        in_reasoning=reasoning is not None and is_open(reasoning, tail),
        is_structured=structure is not None,
    )


def find_thoughts(form: ReplyForm) -> Thoughts | None:
    """Behind which an answer's structure begins; None where it begins at once, or there is none."""
    if not form.is_structured or form.reasoning is None:
        return None
    marks = REASONING_FORMATS[form.reasoning]
    return Thoughts(marks.begin, marks.end, form.in_reasoning)


def _can_precede(reasoning: str | None, structure: str) -> bool:
    """Whether thoughts are told apart from an answer of such a structure: by marks, and if it is
    not itself free text in parts."""
    marked = reasoning is not None and bool(REASONING_FORMATS[reasoning].end)
    return marked and structure != "structural_tag"


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
