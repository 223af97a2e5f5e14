"""What stands around a body, and lines that are no JSON."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glinthawk.jobs.broken_lines import salvage_custom_id
from glinthawk.jobs.lines import LineReader, Refusal, Task
from job_files import line

_CHAT = {"messages": [{"role": "user", "content": "hello"}]}

_BODIES: dict[str | None, dict[str, Any]] = {
    "completion": {"prompt": "hello"},
    "response": {"input": "hello"},
    "embedding": {"input": "hello"},
    "score": {"text_1": "hello", "text_2": ["world"]},
    "ranking": {"query": "hello", "documents": ["world"]},
}


def _read(reader: LineReader, item: Any) -> Task | Refusal:
    return reader.read(3, item if isinstance(item, bytes) else json.dumps(item).encode())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/chat/completions/", "chat"),
        ("/chat/completions", "chat"),
        ("v1/chat/completions", "chat"),
        (" /v1/chat/completions ", "chat"),
        ("https://api.example.com/v1/chat/completions", "chat"),
        ("http://localhost:8000/v1/chat/completions?a=b", "chat"),
        ("https://x.example.com/openai/deployments/d/chat/completions?api-version=1", "chat"),
        ("/v1/completions", "completion"),
        ("https://api.example.com/v1/completions", "completion"),
        ("/v1/responses", "response"),
        ("/v1/embeddings", "embedding"),
        ("https://x.example.com/openai/deployments/d/embeddings?api-version=1", "embedding"),
        ("/v1/rerank", "ranking"),
        ("/v2/rerank", "ranking"),
        ("/rerank", "ranking"),
        ("/score", "score"),
        ("/v1/classify", None),
        ("/x/chat/completions", None),
        ("/v1/chat", None),
        ("http://[/v1/chat/completions", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_addresses(reader: LineReader, url: Any, kind: str | None) -> None:
    read = _read(reader, {**line(), "url": url, "body": _BODIES.get(kind, _CHAT)})
    if kind is None:
        assert isinstance(read, Refusal)
        assert (read.error.param, read.error.code) == ("url", "invalid_url")
        assert "/v1/completions" in str(read.error)
    else:
        assert isinstance(read, Task), read
        assert read.kind == kind


@pytest.mark.parametrize("method", ["POST", "post", "Post", None])
def test_methods(reader: LineReader, method: str | None) -> None:
    assert isinstance(_read(reader, {**line(), "method": method}), Task)
    assert isinstance(_read(reader, {k: v for k, v in line().items() if k != "method"}), Task)
    assert isinstance(_read(reader, {**line(), "method": 5}), Refusal)


def test_a_line_of_another_shape_is_told_the_fields(reader: LineReader) -> None:
    read = _read(reader, {"custom_id": "a", "params": _CHAT})
    assert isinstance(read, Refusal)
    assert read.custom_id == "a"
    assert "A line has custom_id, method, url, body" in str(read.error)


_LINE = json.dumps(line("mine")).encode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (_LINE.replace(b"[1, 2, 3]", b'[1], "top_p": NaN'), "NaN stands in the line"),
        (_LINE.replace(b"[1, 2, 3]", b"[-Infinity]"), "-Infinity stands in the line"),
        (_LINE.replace(b"[1, 2, 3]", b'"\\ud800"'), "unpaired surrogate"),
        (_LINE.replace(b"[1, 2, 3]", b'"\xed\xa0\x80"'), "unpaired surrogate"),
        (b"\xef\xbb\xbf" + _LINE, "byte order mark"),
        (_LINE[:-2], "not JSON"),
        (_LINE.replace(b"[1, 2, 3]", b'"\xff"'), "not JSON"),
        (_LINE.replace(b"[1, 2, 3]", b"[" * 100_000), "nested too deeply"),
    ],
)
def test_what_is_no_json_is_named_and_keeps_its_custom_id(
    reader: LineReader, raw: bytes, words: str
) -> None:
    read = _read(reader, raw)
    assert isinstance(read, Refusal)
    assert words in str(read.error)
    assert (read.custom_id, read.error.code) == ("mine", "invalid_json_line")


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b'{"custom_id": 5', b'{"custom_id": "\\ud800", "b": NaN}', b'{"b": "c'],
)
def test_where_there_is_no_custom_id_none_is_made_up(raw: bytes) -> None:
    assert salvage_custom_id(raw) is None


@given(st.binary(max_size=60) | st.text(max_size=20).map(lambda s: ('{"custom_id":"' + s).encode()))
@example(b'{"custom_id": "\\')
def test_no_bytes_break_the_reader_of_broken_lines(raw: bytes) -> None:
    found = salvage_custom_id(raw)
    assert found is None or found.encode() is not None
