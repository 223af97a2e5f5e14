"""Calls of tools: what models write, what templates are told, what an answer says of them."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from glinthawk.core.limits import Limits
from glinthawk.core.sequence import FinishReason, Request, Sequence
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.reasoning import REASONING_FORMATS
from glinthawk.jobs.results import answer_line
from glinthawk.jobs.text import Text
from glinthawk.jobs.tools.tool_calls import read_forced
from glinthawk.jobs.tools.tool_formats import TOOL_FORMATS, find_tool_format
from job_files import line
from result_schema import check_result

_CHAT = "/v1/chat/completions"
_ASK = [{"role": "user", "content": "hello"}]
_TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}{% endfor %}"
    "{% endfor %}{% if tools %}TOOLS {{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
#: As templates of each family speak of calls.
_WORDS = {
    "openai": "<|channel|>commentary<|message|>",
    "mistral": "[TOOL_CALLS]",
    "qwen3_coder": "<tool_call><function=name>",
    "glm45": "<tool_call>name<arg_key>",
    "hermes": '<tool_call>{"name": n, "arguments": a}',
    "llama3_json": '{"name": n, "parameters": dictionary of argument name and its value}',
}
_SPECIAL = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "[TOOL_CALLS]"]
#: The call f(a=1, b="x") as each family writes it, behind the word Well where that may be.
_WRITTEN = {
    "openai": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.f <|constrain|>json<|message|>{"a": 1, "b": "x"}<|call|>'
    ),
    "mistral": 'Well[TOOL_CALLS][{"name": "f", "arguments": {"a": 1, "b": "x"}}]',
    "qwen3_coder": (
        "Well<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n"
        "<parameter=b>\nx\n</parameter>\n</function>\n</tool_call>"
    ),
    "glm45": (
        "Well<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n"
        "<arg_key>b</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"
    ),
    "hermes": 'Well<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": "x"}}\n</tool_call>',
    "llama3_json": '<|python_tag|>{"name": "f", "parameters": {"a": 1, "b": "x"}}',
}


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.fixture
def speak(bpe_folder: Path) -> Callable[..., LineReader]:
    """A reader of the tiny tokenizer with another template."""

    def make(template: str, **rules: Any) -> LineReader:
        tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
        tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL})
        tokenizer.chat_template = template
        limits = Limits(max_model_len=4096, kv_tokens=4096, vocab_size=400)
        return LineReader(Text(tokenizer), limits, "tiny", LineRules(**rules))

    return make


def _read(reader: LineReader, **body: Any) -> Task | Refusal:
    return reader.read(0, json.dumps(line("a", _CHAT, **{"messages": _ASK, **body})).encode())


def _task(reader: LineReader, **body: Any) -> Task:
    read = _read(reader, **body)
    assert isinstance(read, Task), read
    return read


def _prompt(reader: LineReader, task: Task) -> str:
    return "".join(map(reader.text.token_text, task.prompts[0].ids))


def _choice(reader: LineReader, task: Task, answer: str, seed: int = 0) -> dict[str, Any]:
    tokenizer: Any = reader.text._tokenizer
    output = [*tokenizer.encode(answer, add_special_tokens=False), 1]
    request = Request(0, task.prompts[0].ids, task.params, seed, 99, frozenset({1}))
    sequence = Sequence(request, output=output, finish_reason=FinishReason.STOP)
    result = check_result(json.loads(answer_line(task, [sequence], reader.text, 0)))
    return result["response"]["body"]["choices"][0]


def test_choices_of_the_command_line_are_the_tables() -> None:
    hints = get_type_hints(LineRules)
    assert set(get_args(hints["tool_call_parser"])) == {"auto", *TOOL_FORMATS}
    assert set(get_args(hints["reasoning_parser"])) == {"auto", "none", *REASONING_FORMATS}
    assert _WORDS.keys() == _WRITTEN.keys() == TOOL_FORMATS.keys()


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
def test_calls_of_every_family(name: str, speak: Callable[..., LineReader]) -> None:
    assert find_tool_format(_WORDS[name]) == name
    reader = speak(f"{_TURNS}{{# {_WORDS[name]} #}}")
    task = _task(reader, tools=[_tool("f")])
    assert "TOOLS" in _prompt(reader, task)
    choice = _choice(reader, task, _WRITTEN[name])
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    [called] = message["tool_calls"]
    assert called["function"]["name"] == "f"
    assert json.loads(called["function"]["arguments"]) == {"a": 1, "b": "x"}
    assert message["content"] == ("Well" if "Well" in _WRITTEN[name] else None)
    assert message.get("reasoning_content") == ("Hm." if name == "openai" else None)
    # Text is text, and said as it is.
    plain = _choice(reader, task, "hello {world}")
    assert (plain["message"]["content"], plain["finish_reason"]) == ("hello {world}", "stop")


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
@given(text=st.text(st.sampled_from('<>{}[]|"/:=,af1 \n') | st.characters(), max_size=30))
def test_no_text_breaks_a_reader(name: str, text: str) -> None:
    for answer in (text, _WRITTEN[name] + text, text + _WRITTEN[name], _WRITTEN[name][: len(text)]):
        for call in TOOL_FORMATS[name].read(answer).calls:
            assert isinstance(json.loads(call.arguments), dict)


def test_two_calls_and_one_where_they_may_not_be_parallel(speak: Callable[..., LineReader]) -> None:
    reader = speak(f"{_TURNS}{{# {_WORDS['hermes']} #}}")
    both = _WRITTEN["hermes"] + '<tool_call>{"name": "g", "arguments": "{}"}</tool_call>'
    for parallel, names in ((True, ["f", "g"]), (False, ["f"])):
        task = _task(reader, tools=[_tool("f")], parallel_tool_calls=parallel)
        calls = _choice(reader, task, both)["message"]["tool_calls"]
        assert [call["function"]["name"] for call in calls] == names


def test_ids_of_calls_are_the_same_whenever_they_are_written(
    speak: Callable[..., LineReader],
) -> None:
    for name in ("hermes", "mistral"):
        reader = speak(f"{_TURNS}{{# {_WORDS[name]} #}}")
        task = _task(reader, tools=[_tool("f")])

        def ids(seed: int, name: str = name, reader: LineReader = reader, task: Task = task) -> str:
            message = _choice(reader, task, _WRITTEN[name], seed)["message"]
            return str(message["tool_calls"][0]["id"])

        assert ids(1) == ids(1) != ids(2)
        # Mistral's templates take no others.
        assert len(ids(1)) == 9 if name == "mistral" else ids(1).startswith("call_")


def test_a_parser_is_needed_where_nobody_knows_the_way(speak: Callable[..., LineReader]) -> None:
    read = _read(speak(_TURNS), tools=[_tool("f")])
    assert isinstance(read, Refusal)
    assert "--tool-call-parser" in str(read.error)
    assert isinstance(_read(speak(_TURNS), tools=[_tool("f")], tool_choice="required"), Task)
    reader = speak(_TURNS, tool_call_parser="hermes")
    assert _choice(reader, _task(reader, tools=[_tool("f")]), _WRITTEN["hermes"])["message"][
        "tool_calls"
    ]


def test_no_tool_is_told_that_may_not_be_called(speak: Callable[..., LineReader]) -> None:
    reader = speak(f"{_TURNS}{{# {_WORDS['hermes']} #}}")
    task = _task(reader, tools=[_tool("f")], tool_choice="none")
    assert "TOOLS" not in _prompt(reader, task)
    assert _choice(reader, task, _WRITTEN["hermes"])["finish_reason"] == "stop"


def test_a_template_without_tools_is_told_them_in_words(reader: LineReader) -> None:
    limits = Limits(max_model_len=4096, kv_tokens=4096, vocab_size=320)
    reader = LineReader(reader.text, limits, "tiny")
    call = {"type": "function", "id": "x", "function": {"name": "f", "arguments": '{"a": "hello"}'}}
    task = _task(
        reader,
        tools=[_tool("f")],
        messages=[
            {"role": "system", "content": "Be kind."},
            *_ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "x", "content": "world"},
        ],
    )
    said = reader.text.decode(task.prompts[0].ids)
    assert '"name": "f"' in said
    assert '<tool_call>{"name": "f", "arguments": {"a": "hello"}}</tool_call>' in said
    assert "<tool_response>\nworld\n</tool_response>" in said
    written = '<tool_call>{"name": "f", "arguments": {"a": "cat"}}</tool_call>'
    assert _choice(reader, task, written)["message"]["tool_calls"]


def test_history_is_told_to_the_template(speak: Callable[..., LineReader]) -> None:
    reader = speak(f"{_TURNS}{{# {_WORDS['hermes']} #}}")
    call = {"type": "function", "id": "x", "function": {"name": "f", "arguments": '{"a": 5}'}}
    answered = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    told = [*_ASK, *answered, {"role": "tool", "tool_call_id": "x", "content": "world"}]
    said = _prompt(reader, _task(reader, tools=[_tool("f")], messages=told))
    assert "CALL f a=5" in said
    assert "<|tool|>world" in said
    for arguments in ("{", "[]", 5):
        bad = {"function": {"name": "f", "arguments": arguments}}
        read = _read(reader, messages=[*_ASK, {"role": "assistant", "tool_calls": [bad]}])
        assert isinstance(read, Refusal)
        assert read.error.param == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [_tool("f")], "tool_choice": "some"}, "tool_choice"),
        ({"tools": [_tool("f")], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [_tool("f")], "tool_choice": {"function": 5}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"function": {"name": 5}}]}, "tools"),
        ({"tools": [{"function": {"name": "f", "parameters": 5}}]}, "tools"),
        ({"tools": [_tool("f", a={"type": "nothing"})], "tool_choice": "required"}, "tools"),
        (
            {
                "tools": [_tool("f")],
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            },
            "response_format",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_named(
    speak: Callable[..., LineReader], body: dict[str, Any], param: str
) -> None:
    read = _read(speak(f"{_TURNS}{{# {_WORDS['hermes']} #}}"), **body)
    assert isinstance(read, Refusal)
    assert read.error.param == param


def test_forced_calls_are_held_to_the_tools(speak: Callable[..., LineReader]) -> None:
    shared = {"$defs": {"size": {"type": "integer"}}}
    tools = [_tool("f", a={"$ref": "#/$defs/size"}), _tool("g")]
    tools[0]["function"]["parameters"] |= shared
    reader = speak(_TURNS)
    task = _task(reader, tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert task.params.structured_outputs is not None
    schema = json.loads(str(task.params.structured_outputs.json))
    good = [{"name": "f", "arguments": {"a": 5}}]
    jsonschema.validate(good, schema)
    for bad in ([], [*good, *good], [{"name": "h", "arguments": {}}], good[0]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    [call] = _choice(reader, task, json.dumps(good))["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": 5}'}
    named = _task(reader, tools=tools, tool_choice={"function": {"name": "g"}})
    [call] = _choice(reader, named, "{}")["message"]["tool_calls"]
    assert call["function"] == {"name": "g", "arguments": "{}"}


def test_a_forced_call_that_is_cut_off_is_text() -> None:
    assert read_forced('{"a": ', "f").text == '{"a": '
    assert read_forced('[{"name": "f"', None).text == '[{"name": "f"'


def test_a_task_goes_to_another_process(speak: Callable[..., LineReader]) -> None:
    reader = speak(f"{_TURNS}{{# {_WORDS['hermes']} #}}")
    task = _task(reader, tools=[_tool("f")], stop="x")
    assert pickle.loads(pickle.dumps(task)) == task
