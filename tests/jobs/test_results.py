"""Result lines in OpenAI's shape."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import RequestError
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Request, Sequence, TokenLogprobs
from glinthawk.jobs.finished import is_success
from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.results import answer_line, answer_text, refusal_line
from glinthawk.jobs.text import Text
from result_schema import check_result

_EOS = 1


def _sequence(
    output: list[int], reason: FinishReason = FinishReason.STOP, **params: Any
) -> Sequence:
    request = Request(0, (5, 6), SamplingParams(**params), 0, 50, frozenset({_EOS}))
    return Sequence(request, output=output, finish_reason=reason)


def _answer(text: Text, kind: Any, sequences: list[Sequence], **task: Any) -> dict[str, Any]:
    params = sequences[0].request.params
    wish = Task(12, "mine", kind, "m", (Prompt((5, 6), 50),), params, **task)
    return json.loads(answer_line(wish, sequences, text, 1000))


def test_a_completion(text: Text) -> None:
    output = [*text.encode("the cat")[1:], _EOS]
    result = _answer(text, "completion", [_sequence(output)])
    assert result == {
        "id": "batch_req_000000012",
        "custom_id": "mine",
        "response": {
            "status_code": 200,
            "request_id": "req_000000012",
            "body": {
                "id": "cmpl-000000012",
                "object": "text_completion",
                "created": 1000,
                "model": "m",
                "choices": [
                    {"index": 0, "text": "the cat", "logprobs": None, "finish_reason": "stop"}
                ],
                "usage": {
                    "prompt_tokens": 2,
                    "completion_tokens": len(output),
                    "total_tokens": 2 + len(output),
                },
            },
        },
        "error": None,
    }


def test_a_chat_with_two_choices(text: Text) -> None:
    one = _sequence([*text.encode("hello")[1:]], FinishReason.LENGTH, n=2)
    two = _sequence([_EOS], n=2)
    body = _answer(text, "chat", [one, two], return_token_ids=True)["response"]["body"]
    assert body["id"] == "chatcmpl-000000012"
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello"},
            "logprobs": None,
            "finish_reason": "length",
            "token_ids": one.output,
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": "stop",
            "token_ids": [_EOS],
        },
    ]
    assert body["usage"]["completion_tokens"] == len(one.output) + 1


def test_a_stop_token_is_counted_but_not_said(text: Text) -> None:
    ids = list(text.encode("the cat"))
    stopped = _sequence(ids, stop_token_ids=[ids[-1]])
    assert answer_text(text, stopped) == text.decode(ids[:-1])
    # The same token is text where it did not end the answer.
    assert answer_text(text, _sequence(ids, FinishReason.LENGTH)) == "the cat"


def test_a_stop_string_is_cut(text: Text) -> None:
    assert answer_text(text, _sequence(list(text.encode("the cat sat")), stop=" sat")) == "the cat"


def _with_logprobs(text: Text, num_top: int) -> Sequence:
    sequence = _sequence([*text.encode("the é")[1:]], logprobs=num_top)
    for token in sequence.output:
        top = ((0, -0.25), (token, -0.5))[:num_top]
        sequence.logprobs.append(TokenLogprobs(token, -0.5, 1, top))
    return sequence


def test_logprobs_of_a_chat(text: Text) -> None:
    sequence = _with_logprobs(text, 2)
    sequence.logprobs[0] = TokenLogprobs(sequence.output[0], float("-inf"), 1, ())
    choice = _answer(text, "chat", [sequence])["response"]["body"]["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == len(sequence.output)
    first = text.token_text(sequence.output[0])
    assert content[0] == {
        "token": first,
        "logprob": -9999.0,
        "bytes": list(first.encode()),
        "top_logprobs": [],
    }
    second = text.token_text(sequence.output[1])
    assert content[1]["top_logprobs"] == [
        {"token": "<s>", "logprob": -0.25, "bytes": list(b"<s>")},
        {"token": second, "logprob": -0.5, "bytes": list(second.encode())},
    ]


def test_a_part_of_a_character_has_its_own_bytes(text: Text) -> None:
    sequence = _sequence([text.encode("€")[1]], logprobs=0)
    sequence.logprobs.append(TokenLogprobs(sequence.output[0], -0.5, 1, ()))
    choice = _answer(text, "chat", [sequence])["response"]["body"]["choices"][0]
    assert choice["logprobs"]["content"][0]["bytes"] == [0xE2]


def test_logprobs_of_a_completion(text: Text) -> None:
    sequence = _with_logprobs(text, 1)
    choice = _answer(text, "completion", [sequence])["response"]["body"]["choices"][0]
    logprobs = choice["logprobs"]
    spelled = [text.token_text(token) for token in sequence.output]
    assert logprobs["tokens"] == spelled
    assert logprobs["token_logprobs"] == [-0.5] * len(spelled)
    # The chosen token stands beside the one alternative asked for.
    assert logprobs["top_logprobs"][0] == {"<s>": -0.25, spelled[0]: -0.5}
    assert logprobs["text_offset"][:2] == [0, len(spelled[0])]
    assert len(logprobs["text_offset"]) == len(spelled)


def test_without_tokenizer_the_ids_are_the_answer() -> None:
    sequence = _sequence([7, 8], FinishReason.LENGTH, logprobs=0)
    sequence.logprobs = [TokenLogprobs(7, -1.0, 1, ()), TokenLogprobs(8, -1.0, 1, ())]
    result = _answer(Text(None), "completion", [sequence], return_token_ids=True)
    choice = result["response"]["body"]["choices"][0]
    assert (choice["text"], choice["token_ids"]) == ("", [7, 8])
    assert choice["logprobs"]["tokens"] == ["token_id:7", "token_id:8"]


def test_a_line_that_is_rejected_has_a_response_that_says_so() -> None:
    raw = refusal_line(Refusal(7, None, RequestError("no", param="n", code="c")))
    assert raw.endswith(b"\n")
    assert check_result(msgspec.json.decode(raw)) == {
        "id": "batch_req_000000007",
        "custom_id": None,
        "response": {
            "status_code": 400,
            "request_id": "req_000000007",
            "body": {
                "error": {
                    "message": "no",
                    "type": "invalid_request_error",
                    "param": "n",
                    "code": "c",
                }
            },
        },
        "error": None,
    }


def test_a_failure_of_ours_is_an_error_without_a_response() -> None:
    raw = refusal_line(Refusal(7, "a", RequestError("no", code="kv_memory_exceeded")))
    assert check_result(msgspec.json.decode(raw)) == {
        "id": "batch_req_000000007",
        "custom_id": "a",
        "response": None,
        "error": {"code": "kv_memory_exceeded", "message": "no"},
    }


def test_a_model_of_another_name_is_not_found() -> None:
    raw = refusal_line(Refusal(7, "a", RequestError("no", code="model_not_found")))
    assert msgspec.json.decode(raw)["response"]["status_code"] == 404


@given(st.text(max_size=20) | st.none(), st.sampled_from(["c", "kv_memory_exceeded"]))
def test_no_refusal_is_taken_for_an_answer(custom_id: str | None, code: str) -> None:
    error = RequestError('"response":{"status_code":200,', code=code)
    assert not is_success(refusal_line(Refusal(7, custom_id, error)))


@given(st.text(max_size=20))
def test_every_answer_is_taken_for_one(custom_id: str) -> None:
    sequence = _sequence([7], FinishReason.LENGTH)
    prompts = (Prompt((5,), 50),)
    task = Task(1, custom_id, "completion", "m", prompts, sequence.request.params)
    assert is_success(answer_line(task, [sequence], Text(None), 0))
