"""Tokenizer, chat template, messages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glinthawk.core.errors import ModelError, RequestError
from glinthawk.jobs.text import Text

_HELLO = [{"role": "user", "content": "hello"}]


def test_a_prompt_gets_the_special_tokens_of_the_model(text: Text) -> None:
    ids = text.encode("hello 日本語 🙂")
    assert ids[0] == 0
    assert text.decode(ids) == "hello 日本語 🙂"


def test_a_chat_ends_where_the_assistant_speaks(text: Text) -> None:
    ids = text.encode_chat(_HELLO)
    assert (ids[0], ids[-2:]) == (2, (1, 3))
    assert text.decode(ids) == "hello"


def test_text_parts_are_joined(text: Text) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "world"}]
    whole = [{"role": "user", "content": "hello\nworld", "name": None}]
    assert text.encode_chat([{"role": "user", "content": parts}]) == text.encode_chat(whole)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hello", "messages"),
        (["hello"], "messages[0]"),
        ([{"content": "hello"}], "messages[0].role"),
        ([*_HELLO, {"role": "assistant", "content": None}], "messages[1].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": "a", "audio": {"id": "x"}}], "messages[0].audio"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0]",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "tool", "content": 5}], "messages[0].content"),
    ],
)
def test_bad_messages_are_named(text: Text, messages: object, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        text.encode_chat(messages)
    assert caught.value.param == param


def test_a_missing_template_is_said(fallback_text: Text) -> None:
    with pytest.raises(RequestError, match="no chat template; use /v1/completions"):
        fallback_text.encode_chat(_HELLO)


def test_broken_unicode_is_the_requests_fault(text: Text) -> None:
    with pytest.raises(RequestError):
        text.encode("\ud800")
    with pytest.raises(RequestError):
        text.encode_chat([{"role": "user", "content": "\ud800"}])


def test_unfinished_characters_decode(text: Text) -> None:
    ids = text.encode("🙂")[1:]
    for end in range(1, len(ids)):
        assert "\ufffd" in text.decode(ids[:end])
    assert text.decode([10**6]) == ""


def test_token_texts_keep_spaces_and_special_tokens(text: Text, fallback_text: Text) -> None:
    assert "".join(map(text.token_text, text.encode("the cat"))) == "<s>the cat"
    spaced = fallback_text.encode("the cat")
    assert "".join(map(fallback_text.token_text, spaced)) == " the cat"


def test_without_tokenizer_only_ids_work(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    text = Text.load(tmp_path)
    assert text.decode([1, 2]) == ""
    assert text.token_text(7) == "token_id:7"
    for call in (text.encode, lambda _: text.encode_chat(_HELLO)):
        with pytest.raises(RequestError, match="this model has no tokenizer files: give"):
            call("hello")
    with pytest.raises(RequestError, match="stop_token_ids"):
        text.require_stop_strings()


def test_a_broken_tokenizer_is_the_models_fault(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text('{"version": 1')
    with pytest.raises(ModelError, match="repair its files"):
        Text.load(tmp_path)


def test_eos_ids_come_from_everywhere(text: Text, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "eos_token_id": 9}))
    assert Text(None).eos_token_ids(tmp_path) == {9}
    assert text.eos_token_ids(tmp_path) == {1, 9}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert text.eos_token_ids(tmp_path) == {1, 5, 6}
    (tmp_path / "generation_config.json").unlink()
    config.write_text(json.dumps({"model_type": "llama", "eos_token_id": None}))
    assert Text(None).eos_token_ids(tmp_path) == frozenset()


def test_importing_jobs_is_quick() -> None:
    code = "import sys, glinthawk.jobs.job; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "tokenizers"} & set(done.stdout.split())
