"""What a model thought before it answered, told apart by the marks of its family."""

from dataclasses import dataclass

from glinthawk.jobs.tools.tool_calls import harmony_messages

__all__ = [
    "REASONING_FORMATS",
    "find_reasoning",
    "is_closed",
    "is_open",
    "split_marked",
    "split_reasoning",
]


@dataclass(frozen=True, slots=True)
class _Marks:
    """Around thoughts. With none, they are messages of a channel of their own."""

    begin: str = ""
    end: str = ""


_THINK = _Marks("<think>", "</think>")
#: By the names of vLLM's --reasoning-parser. The first whose marks stand in a template is taken.
REASONING_FORMATS = {
    "openai_gptoss": _Marks(),
    "qwen3": _THINK,
    "deepseek_r1": _THINK,
    "mistral": _Marks("[THINK]", "[/THINK]"),
    "seed_oss": _Marks("<seed:think>", "</seed:think>"),
}
_CHANNEL = "<|channel|>"


def find_reasoning(template: str) -> str | None:
    """The name of the format that a chat template speaks of; None where there is none."""
    for name, marks in REASONING_FORMATS.items():
        if (marks.end or _CHANNEL) in template:
            return name
    return None


def is_open(name: str, prompt: str) -> bool:
    """Whether ``prompt`` ends among thoughts: its last mark begins them."""
    marks = REASONING_FORMATS[name]
    return bool(marks.begin) and prompt.rfind(marks.begin) > prompt.rfind(marks.end)


def is_closed(name: str, prompt: str) -> bool:
    """Whether ``prompt`` ends with the end of thoughts, as templates write it for a model that is
    not to think."""
    marks = REASONING_FORMATS[name]
    return bool(marks.end) and prompt.rstrip().endswith(marks.end)


def split_reasoning(name: str, text: str, opened: bool = False) -> tuple[str | None, str]:
    """Thoughts, or None, and the answer after them. ``opened``: they began in the prompt.

    >>> split_reasoning("qwen3", "<think>Hm.</think>Yes.")
    ('Hm.', 'Yes.')
    >>> split_reasoning("qwen3", "Hm, hm", opened=True)
    ('Hm, hm', '')
    """
    marks = REASONING_FORMATS[name]
    if not marks.begin:
        return _split_channels(text)
    before, begin, rest = text.partition(marks.begin)
    if begin and before.strip() and not opened:
        return None, text  # it speaks of the marks
    if not begin or before.strip():
        # A lone end mark ends thoughts, whether or not this prompt began them: models that think
        # leave their first mark out now and then, and vLLM's parsers read their answers so, too.
        if not opened and marks.end not in text:
            return None, text
        rest = text
    thoughts, _, answer = rest.partition(marks.end)
    return thoughts.strip() or None, answer.lstrip()


def split_marked(name: str, text: str, opened: bool = False) -> tuple[str | None, str]:
    """The same of an answer that is held to a structure: there a lone end mark is a part of it.

    >>> split_marked("qwen3", "<think>Hm.</think>{}"), split_marked("qwen3", '"</think>"')
    (('Hm.', '{}'), (None, '"</think>"'))
    """
    if not opened and not text.startswith(REASONING_FORMATS[name].begin):
        return None, text
    return split_reasoning(name, text, opened)


def _split_channels(text: str) -> tuple[str | None, str]:
    thoughts: list[tuple[str, str]] = []
    rest: list[tuple[str, str]] = []
    for header, body in harmony_messages(text):
        is_thought = f"{_CHANNEL}analysis" in header and "to=functions" not in header
        (thoughts if is_thought else rest).append((header, body))
    said = "\n".join(body for _, body in thoughts).strip() or None
    if any("to=" in header for header, _ in rest):
        return said, "".join(f"<|start|>{header}<|message|>{body}<|end|>" for header, body in rest)
    return said, "\n".join(body for _, body in rest)
