"""OpenAI's client, unchanged: what people do with it works here."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from commands import PATIENCE_S, call, examples, line
from result_schema import check_result
from servers import Server, content, upload, wait_for

GREEDY = {"temperature": 0, "max_tokens": 8}
HELLO: Any = [{"role": "user", "content": "What is a list?"}]


def chat(custom_id: str, **body: Any) -> dict[str, Any]:
    return line(custom_id, messages=HELLO, **GREEDY | body)


def create(client: OpenAI, file: str, endpoint: Any = "/v1/chat/completions", **more: Any) -> Any:
    return client.batches.create(
        input_file_id=file, endpoint=endpoint, completion_window="24h", **more
    )


def test_a_batch_from_its_upload_to_its_download(client: OpenAI) -> None:
    batch = create(client, upload(client, [chat("a"), chat("b")]), metadata={"for": "a test"})
    assert batch.status in ("validating", "in_progress", "finalizing", "completed")
    done = wait_for(client, batch.id)
    assert (done.status, done.metadata) == ("completed", {"for": "a test"})
    assert (done.request_counts.total, done.request_counts.completed) == (2, 2)
    assert done.error_file_id is None and done.errors is None and done.model == "demo"
    assert batch.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert done.expires_at == batch.created_at + 86_400
    results = content(client, done.output_file_id)
    assert [result["custom_id"] for result in results] == ["a", "b"]
    for result in results:
        check_result(result)
    file = client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_the_same_lines_have_the_same_answers_as_by_run(client: OpenAI, tmp_path: Path) -> None:
    source = examples(tmp_path / "in.jsonl", 30)
    chats = [
        one for one in map(json.loads, source.read_text().splitlines()) if "chat" in one["url"]
    ]
    assert len(chats) > 5
    source.write_text("".join(json.dumps(one) + "\n" for one in chats))
    assert call("run", "-m", "demo", "-i", source, "-o", tmp_path / "out").returncode == 0
    with source.open("rb") as file:
        id = client.files.create(file=file, purpose="batch").id
    done = wait_for(client, create(client, id).id)
    ours = content(client, done.output_file_id)
    theirs = sorted(map(json.loads, (tmp_path / "out").read_text().splitlines()), key=_id)
    for result in (*ours, *theirs):
        del result["response"]["body"]["created"]
    assert ours == theirs


def _id(result: dict[str, Any]) -> str:
    return str(result["id"])


def test_answers_and_errors_are_in_two_files(client: OpenAI) -> None:
    lines = [chat("good"), chat("bad", temperature=-1), chat("long", max_tokens=4, n=2)]
    done = wait_for(client, create(client, upload(client, lines)).id)
    assert done.status == "completed"
    assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
    [bad] = content(client, done.error_file_id)
    assert bad["custom_id"] == "bad"
    assert bad["response"]["body"]["error"]["param"] == "temperature"
    assert [one["custom_id"] for one in content(client, done.output_file_id)] == ["good", "long"]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([chat("a"), chat("a")], "duplicate_custom_id"),
        ([line("a", prompt="A")], "mismatched_endpoint"),
        ([{"custom_id": "a", "url": "/v1/chat/completions"}], "missing_required_parameter"),
        ([{"url": "/v1/chat/completions", "body": {}}], "missing_required_parameter"),
        ([{**chat("a"), "url": "/v1/nothing"}], "invalid_url"),
        ([[]], "invalid_json_line"),
        ([], "empty_file"),
        ([chat("a" * (1 << 17))], "line_too_long"),
    ],
)
def test_a_file_that_is_no_batch_fails_as_a_whole(
    client: OpenAI, lines: list[Any], code: str
) -> None:
    failed = wait_for(client, create(client, upload(client, lines)).id)
    assert failed.status == "failed" and failed.failed_at and failed.output_file_id is None
    assert [error.code for error in failed.errors.data] == [code]
    assert failed.errors.data[0].line in (None, 1, 2)


def test_batches_are_listed_by_pages_the_newest_first(client: OpenAI) -> None:
    file = upload(client, [chat("a")])
    made = [create(client, file).id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert page.has_more and [one.id for one in page.data] == made[:-3:-1]
    listed = [one.id for one in client.batches.list(limit=2)]
    assert listed[:5] == made[::-1] and len(listed) == len(set(listed))
    after = client.batches.list(after=made[2], limit=100).data
    assert [one.id for one in after][:2] == made[1::-1]
    for id in made:
        wait_for(client, id)


def test_a_batch_is_cancelled_and_keeps_what_was_answered(client: OpenAI) -> None:
    lines = [chat(str(number), max_tokens=900, ignore_eos=True) for number in range(200)]
    batch = create(client, upload(client, lines, "long.jsonl"))
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = wait_for(client, batch.id)
    assert done.status == "cancelled" and done.cancelling_at <= done.cancelled_at
    assert len(content(client, done.output_file_id)) == done.request_counts.completed < 200
    with pytest.raises(openai.ConflictError, match="cancelled"):
        client.batches.cancel(batch.id)


def test_files_are_listed_retrieved_and_deleted(client: OpenAI) -> None:
    raw = b'{"any": "bytes"}\n' * 1000
    file = client.files.create(file=("../../etc/passwd", raw), purpose="batch")
    assert (file.bytes, file.filename) == (len(raw), "../../etc/passwd")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == raw
    assert file.id in [one.id for one in client.files.list(purpose="batch")]
    assert file.id not in [one.id for one in client.files.list(purpose="batch_output")]
    assert client.files.list(order="asc", limit=1).data[0].created_at <= file.created_at
    assert client.files.delete(file.id).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)


def test_a_batch_goes_on_when_its_input_is_deleted(client: OpenAI) -> None:
    file = upload(client, [chat(str(number), max_tokens=100) for number in range(20)])
    batch = create(client, file)
    client.files.delete(file)
    assert wait_for(client, batch.id).request_counts.completed == 20


def test_an_interactive_answer_is_that_of_a_line(client: OpenAI) -> None:
    asked: Any = {"messages": HELLO, "temperature": 1.3, "seed": 7, "max_tokens": 20, "n": 2}
    done = wait_for(client, create(client, upload(client, [line("x", **asked)])).id)
    [result] = content(client, done.output_file_id)
    answer = client.chat.completions.create(model="demo", **asked)
    expected = [choice["message"]["content"] for choice in result["response"]["body"]["choices"]]
    assert [choice.message.content for choice in answer.choices] == expected
    assert answer.usage is not None and answer.model == "demo"
    assert answer.usage.completion_tokens > 2


def test_a_chat_is_streamed(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 30}
    whole = client.chat.completions.create(**asked)
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_many_choices_are_streamed_with_their_log_probabilities(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": ["A list", "The dict"], "n": 2, "seed": 3}
    asked |= {"max_tokens": 12, "logprobs": 1, "temperature": 1.0}
    whole = client.completions.create(**asked)
    texts, logprobs = [""] * 4, [0] * 4
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += len(choice.logprobs.tokens or ()) if choice.logprobs else 0
    assert texts == [choice.text for choice in whole.choices]
    assert logprobs == [
        len(choice.logprobs.tokens or ()) for choice in whole.choices if choice.logprobs
    ]


def test_a_stop_string_is_not_shown_in_part(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": "The list type is", "temperature": 0, "max_tokens": 40}
    text = client.completions.create(**asked).choices[0].text
    stop = text[len(text) // 2 :][:7]
    cut = client.completions.create(**asked, stop=[stop, "never there"])
    assert cut.choices[0].finish_reason == "stop"
    shown = ""
    for chunk in client.completions.create(**asked, stop=[stop, "never there"], stream=True):
        shown += chunk.choices[0].text
        assert text.partition(stop)[0].startswith(shown)
    assert shown == cut.choices[0].text == text.partition(stop)[0]


def test_echo_is_streamed(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "prompt": "The list", "temperature": 0, "echo": True}
    whole = client.completions.create(**asked).choices[0].text
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole and whole.startswith("The list")


def test_a_response_is_streamed(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "input": "What is a list?", "temperature": 0}
    asked |= {"max_output_tokens": 40}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text and len(deltas) > 2
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


def test_the_helper_for_streams_takes_them(client: OpenAI) -> None:
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 30}
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == (
        client.chat.completions.create(**asked).choices[0].message.content
    )
    with client.responses.stream(model="demo", input="Hello", temperature=0) as stream:
        assert stream.get_final_response().output_text


def test_tools_are_called_in_a_stream_as_without_one(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"]}
    tool = {"name": "look", "parameters": {**schema, "additionalProperties": False}}
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 200}
    asked |= {"tools": [{"type": "function", "function": tool}]}
    asked["tool_choice"] = {"type": "function", "function": {"name": "look"}}
    [call_] = client.chat.completions.create(**asked).choices[0].message.tool_calls or ()
    assert call_.type == "function" and call_.function.name == "look"
    chunks = list(client.chat.completions.create(**asked, stream=True))
    [streamed] = [one for c in chunks for one in c.choices[0].delta.tool_calls or ()]
    assert streamed.function is not None
    assert streamed.function.arguments == call_.function.arguments
    assert not any(c.choices[0].delta.content for c in chunks)


def test_models(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.owned_by) == ("demo", "glinthawk")
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"extra_body": {"strean": True}}, "strean"),
        ({"extra_body": {"stream": "yes"}}, "stream"),
        ({"extra_body": {"stream_options": 3}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_bad_request_is_told_so(client: OpenAI, more: Any, param: str) -> None:
    asked: Any = {"model": "demo", "messages": HELLO} | more
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(**asked)
    assert told.value.param == param and told.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("more", "param", "error"),
    [
        ({"completion_window": "soon"}, "completion_window", openai.BadRequestError),
        ({"completion_window": "0h"}, "completion_window", openai.BadRequestError),
        ({"endpoint": "/v1/nothing"}, "endpoint", openai.BadRequestError),
        ({"metadata": {"a": "b" * 513}}, "metadata", openai.BadRequestError),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", openai.BadRequestError),
        ({"input_file_id": "file-0"}, "id", openai.NotFoundError),
        ({"input_file_id": "../../records.sqlite"}, "id", openai.NotFoundError),
        ({"extra_body": {"input_file_id": 3}}, "input_file_id", openai.BadRequestError),
    ],
)
def test_a_bad_batch_is_told_so(client: OpenAI, more: Any, param: str, error: Any) -> None:
    asked: Any = {"input_file_id": "file-0", "endpoint": "/v1/completions"}
    with pytest.raises(error) as told:
        client.batches.create(**asked | {"completion_window": "24h"} | more)
    assert told.value.param == param


def test_an_output_is_no_input(client: OpenAI) -> None:
    done = wait_for(client, create(client, upload(client, [chat("a")])).id)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        create(client, done.output_file_id)


def test_the_asynchronous_client_does_the_same(server: Server) -> None:
    async def go() -> None:
        async with AsyncOpenAI(
            base_url=server.url, api_key="any", max_retries=0, timeout=PATIENCE_S
        ) as client:
            raw = "".join(json.dumps(chat(str(n))) + "\n" for n in range(3)).encode()
            file = await client.files.create(file=("in.jsonl", raw), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="1h"
            )
            asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 20}
            answers = await asyncio.gather(
                *(client.chat.completions.create(**asked) for _ in range(8))
            )
            assert len({answer.choices[0].message.content for answer in answers}) == 1
            stream = await client.chat.completions.create(**asked, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(pieces) == answers[0].choices[0].message.content
            listed = [one.id async for one in client.batches.list()]
            assert batch.id in listed
            with server.client() as same:
                assert wait_for(same, batch.id).status == "completed"

    asyncio.run(go())
