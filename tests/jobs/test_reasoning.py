"""Thoughts before an answer, told apart from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from glinthawk.core.limits import Limits
from glinthawk.core.sequence import FinishReason, Request, Sequence
from glinthawk.core.structured_outputs import Thoughts
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import LineReader, Task
from glinthawk.jobs.reasoning import (
    REASONING_FORMATS,
    find_reasoning,
    is_closed,
    is_open,
    split_reasoning,
)
from glinthawk.jobs.results import answer_line
from glinthawk.jobs.text import Text
from job_files import line

_CHAT = "/v1/chat/completions"
#: As Qwen3's: thoughts are left out of what was said, and none are wanted where so said.
_THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is false %}<think></think>{% endif %}"
    "{% if effort_known is defined %}{{ reasoning_effort }}{% endif %}"
    "{% if opens is defined %}<think>{% endif %}{% endif %}"
)


@pytest.fixture
def thinking(bpe_folder: Path) -> Text:
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    tokenizer.chat_template = _THINKING
    return Text(tokenizer)


def _answer(text: Text, answer: str, rules: LineRules | None = None, **body: Any) -> dict[str, Any]:
    reader = LineReader(text, Limits(512, 512, 400), "tiny", rules or LineRules())
    body = {"messages": [{"role": "user", "content": "hello"}], **body}
    task = reader.read(0, json.dumps(line("a", _CHAT, **body)).encode())
    assert isinstance(task, Task), task
    tokenizer: Any = text._tokenizer
    request = Request(0, task.prompts[0].ids, task.params, 0, 99, frozenset({1}))
    output = [*tokenizer.encode(answer, add_special_tokens=False), 1]
    sequence = Sequence(request, output=output, finish_reason=FinishReason.STOP)
    result = json.loads(answer_line(task, [sequence], text, 0))
    return result["response"]["body"]["choices"][0]["message"]


def test_thoughts_stand_apart(thinking: Text) -> None:
    message = _answer(thinking, "<think>\nHm.\n</think>\n\nYes.")
    assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}


def test_thoughts_that_began_in_the_prompt(thinking: Text) -> None:
    opens = {"chat_template_kwargs": {"opens": 1}}
    assert _answer(thinking, "Hm.</think>Yes.", **opens)["reasoning_content"] == "Hm."
    cut = _answer(thinking, "Hm, hm", **opens)
    assert (cut["content"], cut["reasoning_content"]) == ("", "Hm, hm")


_JSON = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("answer", "body", "content", "thoughts"),
    [
        ("Hm.</think>{}", {"chat_template_kwargs": {"opens": 1}}, "{}", "Hm."),
        ("<think>Hm.</think>{}", {}, "{}", "Hm."),
        ('{"a": "</think>"}', {}, '{"a": "</think>"}', None),
        ("{}", {"chat_template_kwargs": {"enable_thinking": False}}, "{}", None),
    ],
)
def test_thoughts_before_an_answer_that_is_held(
    thinking: Text, answer: str, body: dict[str, Any], content: str, thoughts: str | None
) -> None:
    held = _answer(thinking, answer, **_JSON, **body)
    assert (held["content"], held.get("reasoning_content")) == (content, thoughts)


@pytest.mark.parametrize(
    ("body", "rules", "expected"),
    [
        ({}, LineRules(), Thoughts("<think>", "</think>")),
        (
            {"chat_template_kwargs": {"opens": 1}},
            LineRules(),
            Thoughts("<think>", "</think>", are_open=True),
        ),
        ({"chat_template_kwargs": {"enable_thinking": False}}, LineRules(), None),
        ({}, LineRules(reasoning_parser="none"), None),
        ({}, LineRules(reasoning_parser="openai_gptoss"), None),
    ],
)
def test_where_an_answer_begins_to_be_held(
    thinking: Text, body: dict[str, Any], rules: LineRules, expected: Thoughts | None
) -> None:
    reader = LineReader(thinking, Limits(512, 512, 400), "tiny", rules)
    body = {"messages": [{"role": "user", "content": "hello"}], **_JSON, **body}
    task = reader.read(0, json.dumps(line("a", _CHAT, **body)).encode())
    assert isinstance(task, Task), task
    assert task.params.structured_outputs is not None
    assert task.params.structured_outputs.thoughts == expected


@pytest.mark.parametrize(
    "body",
    [{"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}],
)
def test_an_answer_without_thoughts(thinking: Text, body: dict[str, Any]) -> None:
    assert _answer(thinking, "Yes.", **body) == {"role": "assistant", "content": "Yes."}


def test_thoughts_stay_where_nobody_wants_them_apart(thinking: Text) -> None:
    said = "<think>Hm.</think>Yes."
    rules = LineRules(reasoning_parser="none")
    assert _answer(thinking, said, rules) == {"role": "assistant", "content": said}


def test_an_effort_is_told_to_the_template(thinking: Text) -> None:
    reader = LineReader(thinking, Limits(512, 512, 400), "tiny")

    def prompt(**body: Any) -> str:
        body = {"messages": [{"role": "user", "content": "hello"}], **body}
        task = reader.read(0, json.dumps(line("a", _CHAT, **body)).encode())
        assert isinstance(task, Task), task
        return thinking.decode(task.prompts[0].ids)

    known = {"effort_known": True}
    assert prompt(reasoning_effort="low", chat_template_kwargs=known).endswith("low")


@pytest.mark.parametrize("name", sorted(REASONING_FORMATS))
def test_every_format_is_found_by_its_marks(name: str) -> None:
    marks = REASONING_FORMATS[name]
    found = find_reasoning(f"so {marks.end or '<|channel|>'} it goes")
    assert found is not None
    assert REASONING_FORMATS[found] == marks
    assert find_reasoning("{{ messages }}") is None


@given(st.sampled_from(sorted(REASONING_FORMATS)), st.text(max_size=20), st.booleans())
def test_words_without_marks_are_the_answer_or_all_thoughts(
    name: str, text: str, opened: bool
) -> None:
    marks = REASONING_FORMATS[name]
    if any(mark and mark in text for mark in (marks.begin, marks.end, "<|")):
        return
    thoughts, answer = split_reasoning(name, text, opened)
    if marks.begin and opened:
        assert (thoughts or "", answer) == (text.strip(), "")
    else:
        assert thoughts is None
        assert answer == text or not text.strip()


@given(
    st.sampled_from(["qwen3", "mistral", "seed_oss"]),
    st.text(st.characters(codec="ascii"), min_size=1, max_size=20),
    st.text(st.characters(codec="ascii"), max_size=20),
)
def test_what_was_put_together_comes_apart(name: str, thought: str, answer: str) -> None:
    marks = REASONING_FORMATS[name]
    if any(mark in thought + answer for mark in (marks.begin, marks.end)):
        return
    whole = f"{marks.begin}{thought}{marks.end}\n\n{answer}"
    assert split_reasoning(name, whole) == (thought.strip() or None, answer.lstrip())
    rest = whole.removeprefix(marks.begin)
    assert split_reasoning(name, rest, opened=True) == (thought.strip() or None, answer.lstrip())
    assert is_open(name, f"x{marks.begin}y")
    assert not is_open(name, whole)


def test_an_answer_that_speaks_of_the_marks_is_left_alone() -> None:
    text = "The answer: <think>hm</think> 4"
    assert split_reasoning("qwen3", text) == (None, text)


@pytest.mark.parametrize(
    ("prompt", "closed"),
    [
        ("<think>\n\n</think>\n\n", True),
        ("<think>\n", False),
        ("hello", False),
        ("</think> and on", False),
    ],
)
def test_a_prompt_may_have_ended_thoughts(prompt: str, closed: bool) -> None:
    assert is_closed("qwen3", prompt) == closed
    assert not is_closed("openai_gptoss", prompt)
