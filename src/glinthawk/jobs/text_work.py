"""Text work that can be done anywhere: lines to tasks, finished answers to result lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glinthawk.core.limits import Limits
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.results import answer_line
from glinthawk.jobs.text import Text
from glinthawk.tokens.pooler import Pooler

__all__ = ["Answered", "TextRules", "Work", "work_on"]

#: A task, and its choices in their order, which have all finished.
Answered = tuple[Task, list[TokenSequence]]


@dataclass(frozen=True, slots=True)
class TextRules:
    """What the work depends on beside the text. All answers say ``created``, and ``model_name``
    unless ``lines`` have another name."""

    limits: Limits
    model_name: str
    created: int
    lines: LineRules = field(default_factory=LineRules)
    #: Sampling parameters that a line leaves out.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: How the model's hidden states become vectors and scores.
    pooler: Pooler = field(default_factory=Pooler)
    #: Names by which lines ask for LoRA adapters.
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Lines to read, as (number, bytes), and answers to write."""

    lines: Sequence[tuple[int, bytes]] = ()
    answers: Sequence[Answered] = ()


def work_on(text: Text, rules: TextRules) -> Callable[[Work], list[Task | Refusal | bytes]]:
    """What does ``Work``: a task or refusal for each line, then a result line for each answer."""
    reader = LineReader(
        text,
        rules.limits,
        rules.model_name,
        rules.lines,
        rules.defaults,
        rules.pooler,
        adapters=rules.adapters,
    )

    def do(work: Work) -> list[Task | Refusal | bytes]:
        read = [reader.read(line, raw) for line, raw in work.lines]
        written = [answer_line(*answer, text, rules.created) for answer in work.answers]
        return [*read, *written]

    return do
