"""Lines of the kinds that people have in their files, answered by the demo model: each as it must
be. What one helper of a file makes of a field, another may not: so all are in one job."""

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from commands import call, results, write_lines
from result_schema import error_of

_ASK = [{"role": "user", "content": "How do I open a file?"}]
_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"deep": {"type": "boolean"}}},
    },
}
_CHAT = "/v1/chat/completions"


def _line(name: str, url: str = _CHAT, /, **body: Any) -> dict[str, Any]:
    if url.endswith("chat/completions"):
        body = {"messages": _ASK, "max_tokens": 6, "temperature": 0, **body}
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def _parts(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


_PREFILL = [*_ASK, {"role": "assistant", "content": "You open"}]
_LINES = [
    _line("plain", model="gpt-4o-mini"),
    _line("parts", messages=_parts("How do I ", "open a file?")),
    _line("thinking-off", chat_template_kwargs={"enable_thinking": False}),
    _line(
        "schema",
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA}},
    ),
    _line("object", max_tokens=200, response_format={"type": "json_object"}),
    _line("tools", tools=[_TOOL], tool_choice="auto"),
    _line("required", tools=[_TOOL], tool_choice="required", max_tokens=200, temperature=1),
    _line(
        "named",
        tools=[_TOOL],
        max_tokens=200,
        tool_choice={"type": "function", "function": {"name": "look"}},
    ),
    _line("embed", "/v1/embeddings", model="m", input="hello"),
    _line("embed-64", "/v1/embeddings", input=["hello"], encoding_format="base64", user="u"),
    _line("embed-ids", "/v1/embeddings", input=[[5, 6, 7], [8]], dimensions=16),
    _line("embed-wide", "/v1/embeddings", input="hello", dimensions=4096),
    _line("rerank", "/rerank", model="m", query="open", documents=["b", {"text": "open"}], top_n=1),
    _line("score", "/v1/score", model="m", text_1="open", text_2=["b", "open"]),
    _line("sides", "/score", queries=["open", "b"], documents=["open"]),
    _line("responses", "/v1/responses", model="m", input="hello", max_output_tokens=5),
    _line("effort", reasoning_effort="low"),
    _line(
        "idle",
        store=False,
        metadata={"k": "v"},
        service_tier="auto",
        parallel_tool_calls=True,
        user="u",
        safety_identifier="s",
        prompt_cache_key="p",
        detokenize=True,
        spaces_between_special_tokens=True,
        priority=1,
    ),
    _line("stream", stream=False, stream_options=None),
    _line("logprobs", logprobs=True, top_logprobs=2),
    _line("two", n=2, temperature=1),
    _line("prefill", messages=_PREFILL, continue_final_message=True, add_generation_prompt=False),
    _line("plain"),
    {"custom_id": "old", "params": {"model": "x", "messages": _ASK}},
    _line("host", "https://llm.example.com:8000/v1/chat/completions"),
    {**_line("number"), "custom_id": 5},
    {**_line("azure"), "url": "/chat/completions", "method": "post"},
    {**_line("slash"), "url": "/v1/chat/completions/", "method": None},
    _line("table", max_tokens=6.0, seed=1.0, stop=None),
    _line("developer", messages=[{"role": "developer", "content": "Be brief."}, *_ASK]),
    _line(
        "dumped",
        messages=[
            *_ASK,
            {
                "role": "assistant",
                "content": "With open.",
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": [],
            },
            *_ASK,
        ],
    ),
    _line(
        "history",
        tools=[_TOOL],
        messages=[
            *_ASK,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"deep": true}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "open(path)"},
        ],
    ),
    _line("misspelt", temprature=0.5),
    _line("streamed", stream=True),
    _line("prompts", "/v1/completions", prompt=["Once", "Twice"], max_tokens=4),
    _line("echo", "/v1/completions", prompt="Once", max_tokens=4, echo=True, logprobs=1),
]
_REFUSED = {
    "embed-wide": "from 1 to 256",
    "sides": "one and many",
    "old": "custom_id, method, url, body",
    "misspelt": "did you mean temperature?",
    "streamed": "stream",
    None: "custom_id must be a string",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sent")
    source, output = write_lines(folder / "in.jsonl", _LINES), folder / "out.jsonl"
    done = call("run", "-m", "demo", "-i", source, "-o", output, "--tier1-kv", "32MiB", "--quiet")
    assert done.returncode == 1, done.stderr
    found = results(output)
    assert len(found) == len(_LINES)
    return [found[f"batch_req_{number:09}"] for number in range(len(_LINES))]


def _bodies(answers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        answer["custom_id"]: answer["response"]["body"]
        for answer in answers
        if error_of(answer) is None
    }


def _texts(body: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in body["choices"]]


def test_only_what_cannot_be_done_is_refused(answers: list[dict[str, Any]]) -> None:
    refused = {a["custom_id"]: error_of(a) for a in answers if error_of(a) is not None}
    assert refused.keys() == {*_REFUSED, "plain"}
    for name, words in _REFUSED.items():
        assert words in str(refused[name])
    assert error_of(answers[22]) == refused["plain"]
    assert refused["plain"]["code"] == "duplicate_custom_id"


def test_what_changes_nothing_changes_nothing(answers: list[dict[str, Any]]) -> None:
    bodies = _bodies(answers)
    plain = _texts(bodies["plain"])
    same = ("parts", "thinking-off", "effort", "idle", "stream", "logprobs", "host", "azure")
    assert {name: _texts(bodies[name]) for name in (*same, "slash", "table")} == {
        name: plain for name in (*same, "slash", "table")
    }


def test_an_answer_names_what_answered(answers: list[dict[str, Any]]) -> None:
    assert {body["model"] for body in _bodies(answers).values()} == {"demo"}


def test_forms_of_answers(answers: list[dict[str, Any]]) -> None:
    bodies = _bodies(answers)
    assert isinstance(json.loads(_texts(bodies["schema"])[0])["ok"], bool)
    assert isinstance(json.loads(_texts(bodies["object"])[0]), dict)
    assert len(set(_texts(bodies["two"]))) == 2
    tokens = bodies["logprobs"]["choices"][0]["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * len(tokens)
    assert not _texts(bodies["prefill"])[0].startswith("You open")
    assert [choice["index"] for choice in bodies["prompts"]["choices"]] == [0, 1]
    [echo] = bodies["echo"]["choices"]
    assert echo["text"].startswith("Once")
    assert len(echo["logprobs"]["tokens"]) == bodies["echo"]["usage"]["total_tokens"]
    message = bodies["responses"]["output"][0]
    assert (bodies["responses"]["object"], message["role"]) == ("response", "assistant")
    assert message["content"][0]["text"]


def _length(vector: list[float]) -> float:
    return math.fsum(number * number for number in vector) ** 0.5


def test_embeddings_beside_chats(answers: list[dict[str, Any]]) -> None:
    bodies = _bodies(answers)
    [hello] = bodies["embed"]["data"]
    assert (hello["object"], hello["index"], len(hello["embedding"])) == ("embedding", 0, 256)
    assert _length(hello["embedding"]) == pytest.approx(1, abs=1e-6)
    packed = base64.b64decode(bodies["embed-64"]["data"][0]["embedding"])
    assert [*struct.unpack("<256f", packed)] == [
        struct.unpack("<f", struct.pack("<f", number))[0] for number in hello["embedding"]
    ]
    many = bodies["embed-ids"]
    assert [(one["index"], len(one["embedding"])) for one in many["data"]] == [(0, 16), (1, 16)]
    assert _length(many["data"][1]["embedding"]) == pytest.approx(1, abs=1e-6)
    assert many["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


def test_scores_and_rankings(answers: list[dict[str, Any]]) -> None:
    bodies = _bodies(answers)
    other, same = (one["score"] for one in bodies["score"]["data"])
    assert same == pytest.approx(1, abs=1e-6) and other < 0.99
    [best] = bodies["rerank"]["results"]
    assert (best["index"], best["document"]) == (1, {"text": "open"})
    assert best["relevance_score"] == pytest.approx(same)


@pytest.mark.parametrize("name", ["required", "named"])
def test_calls_that_are_asked_for_come(name: str, answers: list[dict[str, Any]]) -> None:
    [choice] = _bodies(answers)[name]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    for one in choice["message"]["tool_calls"]:
        assert one["id"].startswith("call_")
        assert one["function"]["name"] == "look"
        assert isinstance(json.loads(one["function"]["arguments"]), dict)


def _in_the_way_of_vllm(name: str, system: str) -> dict[str, Any]:
    """As the examples of `vllm run-batch` are written."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hello world!"}]
    body = {"model": "meta-llama/Meta-Llama-3-8B-Instruct", "messages": messages}
    return {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**body, "max_completion_tokens": 1000},
    }


def _in_the_way_of_the_cookbook(name: str, description: str) -> dict[str, Any]:
    """As OpenAI's cookbook has files made: an object is wanted, and described in the prompt."""
    system = "Give the categories of a film, and a summary in a sentence, as a JSON object."
    body = {
        "model": "gpt-4o-mini",
        "temperature": 0.1,
        "response_format": {"type": "json_object"},
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": description},
        ],
    }
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def test_files_in_the_way_of_others_run_unchanged(tmp_path: Path) -> None:
    lines = [
        _in_the_way_of_vllm("request-1", "You help."),
        _in_the_way_of_vllm("request-2", "You do not help."),
        _in_the_way_of_the_cookbook("task-0", "Two friends escape from a prison."),
        _in_the_way_of_the_cookbook("task-1", "A family, its power and its sons."),
    ]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    done = call("run", "-m", "demo", "-i", source, "-o", output, "--tier1-kv", "64MiB", "--quiet")
    assert done.returncode == 0, done.stderr
    bodies = _bodies([*results(output).values()])
    assert bodies.keys() == {"request-1", "request-2", "task-0", "task-1"}
    for name in ("task-0", "task-1"):
        [choice] = bodies[name]["choices"]
        whole = choice["finish_reason"] == "stop"
        text = choice["message"]["content"]
        assert text.lstrip().startswith("{")
        assert not whole or isinstance(json.loads(text), dict)


def test_a_strict_run_refuses_what_is_not_supported(tmp_path: Path) -> None:
    lines = [_line("plain"), _line("idle", store=False), _line("none", store=None)]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    arguments = ("run", "-m", "demo", "-i", source, "-o", output, "--tier1-kv", "16MiB")
    done = call(*arguments, "--strict", "--served-model-name", "ours")
    assert done.returncode == 1, done.stderr
    refused = [r["custom_id"] for r in results(output).values() if error_of(r)]
    assert refused == ["idle"]
    assert {body["model"] for body in _bodies([*results(output).values()]).values()} == {"ours"}
    # Answers depend on these, so a job goes on with the same ones.
    assert "strict" in call(*arguments, "--quiet").stderr
