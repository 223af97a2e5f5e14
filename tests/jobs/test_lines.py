"""What a line may say, and what it gets for saying anything else."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.jobs.body import ChatBody, CompletionBody
from glinthawk.jobs.lines import LineReader, Refusal, Task, read_custom_id
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.results import refusal_line
from glinthawk.jobs.text import Text
from job_files import line

_CHAT = "/v1/chat/completions"
_MESSAGES = [{"role": "user", "content": "hello"}]


def _read(reader: LineReader, item: Any) -> Task | Refusal:
    return reader.read(3, item if isinstance(item, bytes) else json.dumps(item).encode())


def _task(reader: LineReader, item: Any) -> Task:
    read = _read(reader, item)
    assert isinstance(read, Task), read
    return read


def _error(reader: LineReader, item: Any) -> RequestError:
    read = _read(reader, item)
    assert isinstance(read, Refusal), read
    return read.error


def test_a_completion(reader: LineReader) -> None:
    task = _task(reader, line("x", model="m"))
    assert task == Task(3, "x", "completion", "tiny", (Prompt((1, 2, 3), 16),), SamplingParams())


def test_a_chat(reader: LineReader) -> None:
    task = _task(reader, line("x", _CHAT, messages=_MESSAGES))
    (prompt,) = task.prompts
    assert prompt.ids == reader.text.encode_chat(_MESSAGES)
    assert (task.kind, task.model) == ("chat", "tiny")
    # A chat goes on for as long as the model can.
    assert task.params.max_tokens is None
    assert prompt.max_tokens == 256 - len(prompt.ids)


def test_every_sampling_field_arrives(reader: LineReader) -> None:
    fields: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "n": 2,
        "seed": -5,
        "stop": ["a", "b"],
        "stop_token_ids": [7],
        "ignore_eos": True,
        "min_tokens": 2,
        "frequency_penalty": 1,
        "presence_penalty": -1.5,
        "repetition_penalty": 1.1,
        "max_tokens": 9,
    }
    task = _task(reader, line(**fields, logit_bias={"5": 2}, logprobs=3, return_token_ids=True))
    assert task.params == SamplingParams(**fields, logit_bias={5: 2.0}, logprobs=3)
    assert task.return_token_ids


def test_logprobs_of_a_chat(reader: LineReader) -> None:
    def wish(**body: Any) -> int | None:
        return _task(reader, line("x", _CHAT, messages=_MESSAGES, **body)).params.logprobs

    assert wish() is None
    assert wish(logprobs=False) is None
    assert wish(logprobs=True) == 0
    assert wish(logprobs=True, top_logprobs=4) == 4


def test_what_changes_nothing_is_accepted(reader: LineReader) -> None:
    neutral = {
        "stream": False,
        "echo": False,
        "best_of": 2,
        "suffix": None,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "user": "me",
        "service_tier": None,
        "detokenize": False,
        "output_kind": 1,
        "skip_reading_prefix_cache": True,
        "skip_clone": True,
        "flat_logprobs": False,
        "extra_args": {},
        "vllm_xargs": {},
        "logits_processors": [],
        "thinking_token_budget": None,
        "stop": None,
        "max_tokens": 5,
        "max_completion_tokens": 5,
    }
    assert _task(reader, line(n=2, **neutral)).params == SamplingParams(n=2, max_tokens=5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": True}, "stream"),
        ({"stream": 0}, "stream"),
        ({"echo": 1}, "echo"),
        ({"echo": True, "logprobs": 21, "max_tokens": 0}, "logprobs"),
        ({"echo": True, "max_tokens": -1}, "max_tokens"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"flat_logprobs": True}, "flat_logprobs"),
        ({"logits_processors": ["a"]}, "logits_processors"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"vllm_xargs": {"a": 1}}, "vllm_xargs"),
        ({"suffix": ""}, "suffix"),
        ({"tools": [{}]}, "tools"),
        ({"messages": _MESSAGES}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"n": True}, "n"),
        ({"n": "5"}, "n"),
        ({"n": 2.5}, "n"),
        ({"n": 0}, "n"),
        ({"n": 10**30}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"model": 5}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [320]}, "stop_token_ids"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"320": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [[1], [320]]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": ["a", "b" * 999]}, "prompt[1]"),
        ({"prompt": [[1], [2]], "max_tokens": 0}, "max_tokens"),
        ({"prompt": [[[1]]]}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": [320]}, "prompt"),
        ({"prompt": [1] * 256}, "prompt"),
    ],
)
def test_a_bad_body_names_its_field(reader: LineReader, body: dict[str, Any], param: str) -> None:
    error = _error(reader, line(**body))
    assert error.param == param
    assert param in str(error) or "token id" in str(error)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"prompt": "hello"}, "prompt"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"echo": True}, "echo"),
        ({"max_tokens": 0, "prompt_logprobs": 1}, "max_tokens"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_bad_chat_names_its_field(reader: LineReader, body: dict[str, Any], param: str) -> None:
    body = body if "messages" in body or not body else {"messages": _MESSAGES, **body}
    assert _error(reader, line("x", _CHAT, **body)).param == param


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("temprature", "did you mean temperature?"),
        ("maxTokens", "did you mean max_tokens?"),
        ("guided_flavour", "remove it"),
    ],
)
def test_a_field_that_there_is_not_is_answered_with_the_nearest_one(
    reader: LineReader, field: str, says: str
) -> None:
    message = str(_error(reader, line(**{field: "a"})))
    assert message == f"{field} is not supported; {says}"


def test_what_a_prompt_may_be_is_said(reader: LineReader) -> None:
    for prompt in (5, ["a", 5], None):
        assert "a list of token ids, or a list of those" in str(_error(reader, line(prompt=prompt)))


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        (b"{", None, "invalid_json_line"),
        (b"[]", None, "invalid_json_line"),
        (b'"\xff"', None, "invalid_json_line"),
        (b"[" * 100_000, None, "invalid_json_line"),
        ({}, "custom_id", "invalid_request"),
        ({**line(), "custom_id": 5}, "custom_id", "invalid_request"),
        ({**line(), "method": "GET"}, "method", "invalid_request"),
        ({**line(), "url": "/v1/classify"}, "url", "invalid_url"),
        ({**line(), "url": "/v1/moderations"}, "url", "invalid_url"),
        ({**line(), "url": []}, "url", "invalid_url"),
        ({**line(), "body": []}, "body", "invalid_request"),
        ({**line(), "extra": 1}, "extra", "unsupported_field"),
    ],
)
def test_a_bad_envelope(reader: LineReader, item: Any, param: str | None, code: str) -> None:
    error = _error(reader, item)
    assert (error.param, error.code) == (param, code)


def test_the_custom_id_of_a_bad_line_is_kept(reader: LineReader) -> None:
    read = _read(reader, {**line("mine"), "method": "GET"})
    assert isinstance(read, Refusal)
    assert read.custom_id == "mine"
    assert json.loads(refusal_line(read))["custom_id"] == "mine"


def test_a_model_without_tokenizer_takes_ids_only() -> None:
    reader = LineReader(Text(None), Limits(256, 1024, 320), "tiny")
    assert _task(reader, line()).prompts == (Prompt((1, 2, 3), 16),)
    assert "list of token ids" in str(_error(reader, line(prompt="hello")))
    assert _error(reader, line("x", _CHAT, messages=_MESSAGES)).param == "messages"
    assert _error(reader, line(stop="x")).param == "stop"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = st.sampled_from(
    sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__, "best_of", "stream"})
)


def _survives(reader: LineReader, raw: bytes) -> None:
    read = reader.read(0, raw)
    assert read_custom_id(raw) in (None, read.custom_id)
    if isinstance(read, Refusal):
        assert json.loads(refusal_line(read))["response"]["body"]["error"]["message"]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(url=st.sampled_from([_CHAT, "/v1/completions"]), body=st.dictionaries(_FIELDS, _JSON))
def test_no_body_raises(reader: LineReader, url: str, body: dict[str, Any]) -> None:
    _survives(reader, json.dumps({**line("x", url), "body": body}).encode())


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=_JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_no_line_raises(reader: LineReader, raw: bytes) -> None:
    _survives(reader, raw)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 200), byte=st.integers(0, 255))
def test_no_spoiled_line_raises(reader: LineReader, at: int, byte: int) -> None:
    raw = bytearray(json.dumps(line("x", _CHAT, messages=_MESSAGES, stop=["é"])).encode())
    raw[at % len(raw)] = byte
    _survives(reader, bytes(raw))
