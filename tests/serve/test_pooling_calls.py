"""Embeddings, scores and rankings by OpenAI's client, one by one and as batches."""

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from commands import call, results, write_lines
from glinthawk.core.source import resolve_model
from glinthawk.tokens.tokenizer import load_tokenizer
from result_schema import check_result
from servers import Server, content, upload, wait_for

TEXTS = ["open a file", "the list type", "def main():"]
RANKED: Any = {"query": "open", "documents": TEXTS, "top_n": 2}


def _line(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def _create(client: OpenAI, lines: list[dict[str, Any]]) -> Any:
    return client.batches.create(
        input_file_id=upload(client, lines), endpoint=lines[0]["url"], completion_window="24h"
    )


def _post(client: OpenAI, path: str, body: dict[str, Any]) -> Any:
    """The client has no words of its own for these."""
    return client.post(f"/{path}", body=body, cast_to=object)


def test_embeddings_are_the_same_in_every_encoding(client: OpenAI) -> None:
    """The client asks for base64 where nobody says how."""
    packed = client.embeddings.create(model="demo", input=TEXTS)
    plain = client.embeddings.create(model="demo", input=TEXTS, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert np.array_equal(np.float32(one.embedding), np.float32(other.embedding))
        assert np.linalg.norm(one.embedding) == pytest.approx(1)
    assert packed.usage == plain.usage and packed.usage.total_tokens > len(TEXTS)
    short = client.embeddings.create(model="demo", input=TEXTS[0], dimensions=8)
    assert len(short.data[0].embedding) == 8


def test_a_conversation_is_embedded_as_the_template_spells_it(client: OpenAI) -> None:
    """No answer is begun unless that is asked for, and special tokens are the template's."""
    tokenizer = load_tokenizer(resolve_model("demo"))
    messages = [{"role": "user", "content": "open a file"}]
    for begins in (False, True):
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=begins, return_dict=False
        )
        asked = {"messages": messages, "add_generation_prompt": begins or None}
        of_ids, of_talk = (
            _post(client, "embeddings", body) for body in ({"input": list(ids)}, asked)
        )
        assert of_talk["data"] == of_ids["data"]
        assert of_talk["usage"]["prompt_tokens"] == len(ids)
    cut = {"messages": messages, "truncate_prompt_tokens": 2, "truncation_side": "left"}
    assert _post(client, "embeddings", cut)["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "a"}], "input": "a"},
        {"messages": []},
        {"messages": [{"role": "nobody", "content": "a"}]},
    ],
)
def test_conversations_that_cannot_be_embedded(client: OpenAI, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        _post(client, "embeddings", body)
    assert str(refused.value.param).startswith("messages")


def test_a_batch_of_embeddings_has_those_of_run_and_of_single_requests(
    client: OpenAI, tmp_path: Path
) -> None:
    lines = [_line(text, "/v1/embeddings", input=text) for text in TEXTS]
    done = wait_for(client, _create(client, [*lines, _line("bad", "/v1/embeddings", input=[])]).id)
    assert (done.request_counts.completed, done.request_counts.failed) == (3, 1)
    [bad] = content(client, done.error_file_id)
    assert bad["response"]["body"]["error"]["param"] == "input"
    source = write_lines(tmp_path / "in.jsonl", lines)
    assert call("run", "-m", "demo", "-i", source, "-o", tmp_path / "out").returncode == 0
    theirs = {one["custom_id"]: one for one in results(tmp_path / "out").values()}
    for result in content(client, done.output_file_id):
        text, body = result["custom_id"], check_result(result)["response"]["body"]
        single = client.embeddings.create(model="demo", input=text, encoding_format="float")
        embedding = body["data"][0]["embedding"]
        assert embedding == theirs[text]["response"]["body"]["data"][0]["embedding"]
        # Rows of other company may be added up in another order.
        assert embedding == pytest.approx(single.data[0].embedding, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body"), [("rerank", RANKED), ("score", {"text_1": "open", "text_2": TEXTS})]
)
def test_scores_and_rankings_are_those_of_lines(
    client: OpenAI, path: str, body: dict[str, Any]
) -> None:
    done = wait_for(client, _create(client, [_line("a", f"/v1/{path}", **body)]).id)
    [result] = content(client, done.output_file_id)
    expected, single = result["response"]["body"], _post(client, path, body)
    assert single["usage"] == expected["usage"] and single["model"] == "demo"
    name, score = ("results", "relevance_score") if path == "rerank" else ("data", "score")
    for one, other in zip(single[name], expected[name], strict=True):
        assert one.pop(score) == pytest.approx(other.pop(score), abs=1e-5)
        assert one == other


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("embeddings", {"input": 3}, "input"),
        ("embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("embeddings", {"input": "a", "stream": True}, "stream"),
        ("score", {"text_1": "a"}, "text_1"),
        ("rerank", {"query": ["a"], "documents": ["a"]}, "query"),
        ("rerank", {"query": "a", "documents": []}, "documents"),
    ],
)
def test_a_bad_one_is_told_so(client: OpenAI, path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        _post(client, path, body)
    assert told.value.param == param


def test_answers_that_are_no_text_are_counted(server: Server, client: OpenAI) -> None:
    name = "e2e_request_latency_seconds_count"
    before = server.metric(name), server.metric("prompt_tokens_total")
    usage = client.embeddings.create(model="demo", input=TEXTS).usage
    assert server.metric(name) == before[0] + 1
    assert server.metric("prompt_tokens_total") == before[1] + usage.prompt_tokens
