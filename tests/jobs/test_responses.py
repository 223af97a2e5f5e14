"""Lines for /v1/responses: text in, text out."""

import json
from typing import Any

import pytest

from glinthawk.core.sequence import FinishReason, Request, Sequence, TokenLogprobs
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.results import answer_line
from job_files import line
from result_schema import check_result

_URL = "/v1/responses"
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def _read(reader: LineReader, **body: Any) -> Task | Refusal:
    return reader.read(3, json.dumps(line("a", _URL, **{"input": "hello", **body})).encode())


def _task(reader: LineReader, **body: Any) -> Task:
    read = _read(reader, **body)
    assert isinstance(read, Task), read
    return read


def _body(
    reader: LineReader, task: Task, answer: str, reason: FinishReason = FinishReason.STOP
) -> dict[str, Any]:
    request = Request(0, task.prompts[0].ids, task.params, 0, 99)
    output = [*reader.text.encode(answer)[1:]]
    sequence = Sequence(request, output=output, finish_reason=reason)
    sequence.logprobs = [TokenLogprobs(token, -1.0, 1, ((token, -1.0),)) for token in output]
    result = check_result(json.loads(answer_line(task, [sequence], reader.text, 1000)))
    return result["response"]["body"]


def test_a_string_is_what_the_user_says(reader: LineReader) -> None:
    task = _task(reader, instructions="be kind", max_output_tokens=7, temperature=0)
    told = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert task.prompts[0].ids == reader.text.encode_chat(told)
    assert (task.params.max_tokens, task.params.temperature) == (7, 0)


def test_messages_are_those_of_a_chat(reader: LineReader) -> None:
    said = [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {
            "id": "msg_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "world", "annotations": []}],
        },
        {"role": "user", "content": "cat"},
    ]
    told = [("user", "hello"), ("assistant", "world"), ("user", "cat")]
    messages = [{"role": role, "content": content} for role, content in told]
    assert _task(reader, input=said).prompts[0].ids == reader.text.encode_chat(messages)


def test_the_answer_has_the_form_of_the_api(reader: LineReader) -> None:
    task = _task(reader, metadata={"k": "v"}, store=True, top_logprobs=1)
    body = _body(reader, task, "the cat")
    assert (body["id"], body["object"], body["created_at"]) == ("resp_000000003", "response", 1000)
    assert (body["status"], body["incomplete_details"], body["model"]) == (
        "completed",
        None,
        "tiny",
    )
    assert body["metadata"] == {"k": "v"}
    [message] = body["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    [said] = message["content"]
    assert (said["type"], said["text"]) == ("output_text", "the cat")
    assert "".join(token["token"] for token in said["logprobs"]) == "the cat"
    usage = body["usage"]
    assert usage["input_tokens"] == len(task.prompts[0].ids)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_an_answer_that_is_cut_off_says_so(reader: LineReader) -> None:
    body = _body(reader, _task(reader), "the", FinishReason.LENGTH)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_schema(reader: LineReader) -> None:
    form = {"type": "json_schema", "name": "n", "schema": _SCHEMA, "strict": True}
    task = _task(reader, text={"format": form})
    assert task.params.structured_outputs == StructuredOutputsParams(json=_SCHEMA)
    assert _task(reader, text={"format": {"type": "text"}}).params.structured_outputs is None


def test_what_changes_nothing_is_accepted(reader: LineReader) -> None:
    idle = {
        "background": False,
        "include": [],
        "model": "m",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "low", "summary": None},
        "service_tier": "auto",
        "store": True,
        "stream": False,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    }
    assert _task(reader, **idle).params == _task(reader).params


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"role": "user", "content": 5}], "instructions": "a"}, "input[0].content"),
        ({"input": [{"type": "function_call_output"}]}, "input"),
        ({"instructions": 5}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "a"}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"text": {"format": {"type": "json_schema"}}}, "text"),
        ({"text": {"verbosity": "high"}}, "text"),
        ({"text": 5}, "text"),
        ({"reasoning": {"effort": "huge"}}, "reasoning"),
        ({"reasoning": []}, "reasoning"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"stream": True}, "stream"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_what_is_wrong_is_named(reader: LineReader, body: dict[str, Any], param: str) -> None:
    read = _read(reader, **body)
    assert isinstance(read, Refusal), read
    assert read.error.param == param


def test_a_body_is_an_object(reader: LineReader) -> None:
    read = reader.read(0, json.dumps({**line("a", _URL), "body": []}).encode())
    assert isinstance(read, Refusal)
    assert read.error.param == "body"
