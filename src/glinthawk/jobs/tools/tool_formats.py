"""How families of models call tools. A new one is a row of the table, with its reader."""

from collections.abc import Callable
from dataclasses import dataclass

from glinthawk.jobs.tools.tool_calls import (
    Said,
    read_functions,
    read_harmony,
    read_json,
    read_marked,
    read_pairs,
    read_tagged,
)

__all__ = ["TOOL_FORMATS", "ToolFormat", "find_tool_format"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """``marks``: a chat template of the family has all strings of one of these."""

    read: Callable[[str], Said]
    marks: tuple[tuple[str, ...], ...]
    #: Letters of a call's id; 0: as OpenAI writes them.
    id_length: int = 0


#: By the names of vLLM's --tool-call-parser. The first whose marks are found is taken.
TOOL_FORMATS = {
    "openai": ToolFormat(read_harmony, (("<|channel|>", "<|message|>"),)),
    "mistral": ToolFormat(read_marked, (("[TOOL_CALLS]",),), id_length=9),
    "qwen3_coder": ToolFormat(read_functions, (("<tool_call>", "<function="),)),
    "glm45": ToolFormat(read_pairs, (("<tool_call>", "<arg_key>"),)),
    "hermes": ToolFormat(read_tagged, (("<tool_call>", "arguments"),)),
    "llama3_json": ToolFormat(
        read_json, (("<|python_tag|>",), ('"parameters": dictionary of argument name',))
    ),
}


def find_tool_format(template: str) -> str | None:
    """The name of the format that a chat template asks for; None where it is none of these."""
    for name, one in TOOL_FORMATS.items():
        if any(all(mark in template for mark in marks) for marks in one.marks):
            return name
    return None
