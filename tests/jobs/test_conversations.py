"""What a chat says to its template beside messages, and fields of how its answer is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from glinthawk.core.limits import Limits
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Request, Sequence
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.prompts import Prompt
from glinthawk.jobs.results import answer_text
from glinthawk.jobs.text import Text
from glinthawk.tokens.generation_defaults import load_sampling_defaults
from job_files import line

_CHAT = "/v1/chat/completions"
_HELLO = [{"role": "user", "content": "hello"}]


def _read(reader: LineReader, **body: Any) -> Task | Refusal:
    return reader.read(0, json.dumps(line("a", _CHAT, **{"messages": _HELLO, **body})).encode())


def _task(reader: LineReader, **body: Any) -> Task:
    read = _read(reader, **body)
    assert isinstance(read, Task), read
    return read


def _said(reader: LineReader, **body: Any) -> str:
    return "".join(map(reader.text.token_text, _task(reader, **body).prompts[0].ids))


def test_an_answer_goes_on_with_the_assistants_words(reader: LineReader) -> None:
    begun = [*_HELLO, {"role": "assistant", "content": "the cat"}]
    said = _said(reader, messages=begun, continue_final_message=True)
    assert said.endswith("<|assistant|>the cat")
    assert said == _said(
        reader, messages=begun, continue_final_message=True, add_generation_prompt=False
    )
    assert _said(reader, add_generation_prompt=False).endswith("hello</s>")
    read = _read(reader, continue_final_message=True, add_generation_prompt=True)
    assert isinstance(read, Refusal)
    assert read.error.param == "continue_final_message"


def test_a_developer_is_a_system_where_there_is_no_developer(
    reader: LineReader, bpe_folder: Path
) -> None:
    messages = [{"role": "developer", "content": "hello"}, *_HELLO]
    assert _said(reader, messages=messages).startswith("<|system|>hello")
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    tokenizer.chat_template += "{# developer #}"
    knows = LineReader(Text(tokenizer), reader.limits, "tiny")
    assert _said(knows, messages=messages).startswith("<|developer|>hello")


def test_the_template_gets_its_arguments(reader: LineReader, bpe_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    tokenizer.chat_template += "{{ mood }}{% if documents %}{{ documents }}{% endif %}"
    other = LineReader(Text(tokenizer), reader.limits, "tiny")
    assert _said(other, chat_template_kwargs={"mood": "the cat"}).endswith("the cat")
    assert "world" in _said(other, documents=[{"text": "world"}])
    for name in ("tokenize", "chat_template", "tools"):
        read = _read(other, chat_template_kwargs={name: True})
        assert isinstance(read, Refusal)
        assert read.error.param == "chat_template_kwargs"


def test_parts_that_meet_at_a_space_are_one_text(reader: LineReader) -> None:
    def parts(*texts: str) -> str:
        content = [{"type": "text", "text": text} for text in texts]
        return _said(reader, messages=[{"role": "user", "content": content}])

    assert parts("the ", "cat") == parts("the", " cat") == parts("the cat")
    assert parts("the", "cat") == parts("the\ncat")


def test_what_clients_add_to_messages_says_nothing(reader: LineReader) -> None:
    part = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
    dumped = {
        "role": "assistant",
        "content": "world",
        "refusal": None,
        "annotations": [{"type": "url_citation"}],
        "audio": None,
        "function_call": None,
        "tool_calls": [],
    }
    refusing = {"role": "assistant", "content": None, "refusal": "world"}
    plain = [*_HELLO, {"role": "assistant", "content": "world"}, *_HELLO]
    for said in (dumped, refusing):
        messages = [{"role": "user", "content": [part]}, said, *_HELLO]
        assert _said(reader, messages=messages) == _said(reader, messages=plain)


def test_several_templates_without_a_default_are_the_lines_error(
    reader: LineReader, bpe_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    tokenizer.chat_template = {"one": "a", "other": "b"}
    read = _read(LineReader(Text(tokenizer), reader.limits, "tiny"))
    assert isinstance(read, Refusal)
    assert read.error.param == "messages"


def test_the_end_of_a_prompt_is_kept(reader: LineReader) -> None:
    whole = _task(reader).prompts[0].ids
    assert _task(reader, truncate_prompt_tokens=3).prompts[0].ids == whole[-3:]
    assert _task(reader, truncate_prompt_tokens=1000).prompts[0].ids == whole
    long = [{"role": "user", "content": "hello " * 1000}]
    assert isinstance(_read(reader, messages=long), Refusal)
    cut = _task(reader, messages=long, truncate_prompt_tokens=-1, max_tokens=56)
    assert cut.prompts == (Prompt(cut.prompts[0].ids, 56),)
    assert len(cut.prompts[0].ids) == 200


def test_whoever_answers_is_named(reader: LineReader) -> None:
    assert _task(reader, model="gpt-4o-mini").model == "tiny"
    rules = LineRules(served_model_name="ours")
    strict = LineReader(reader.text, reader.limits, "tiny", rules)
    assert _task(strict).model == _task(strict, model="ours").model == "ours"
    read = _read(strict, model="gpt-4o-mini")
    assert isinstance(read, Refusal)
    assert (read.error.param, read.error.code) == ("model", "model_not_found")


def test_defaults_of_the_model(tmp_path: Path, reader: LineReader) -> None:
    config = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "max_new_tokens": 9,
        "do_sample": True,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    defaults = load_sampling_defaults(tmp_path)
    assert defaults == {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_tokens": 9}
    taught = LineReader(reader.text, reader.limits, "tiny", LineRules(), defaults)
    assert _task(taught).params == SamplingParams(**defaults)
    own = _task(taught, temperature=0, top_k=-1, max_tokens=50).params
    assert own == SamplingParams(temperature=0, top_k=-1, top_p=0.95, max_tokens=50)
    assert _task(taught, min_tokens=20).params.max_tokens == 20  # a wish goes before a default
    # A completion has a length of its own.
    raw = json.dumps(line("a", prompt="hello")).encode()
    read = taught.read(0, raw)
    assert isinstance(read, Task)
    assert (read.params.max_tokens, read.params.top_k) == (16, 20)
    assert load_sampling_defaults(tmp_path / "none") == {}


def test_bad_words_are_banned_within_a_text_and_at_its_beginning(text: Text) -> None:
    def spelled(*words: str) -> set[str]:
        ids = text.bad_tokens(SamplingParams(bad_words=words))
        return {"".join(map(text.token_text, one)) for one in ids}

    assert text.bad_tokens(SamplingParams()) == ()
    assert {one.strip() for one in spelled("cat", " the")} == {"cat", "the"}
    assert any(one.startswith(" ") for one in spelled("cat", "the"))


def _finished(text: Text, answer: str, **params: Any) -> Sequence:
    rules = SamplingParams(**params)
    request = Request(0, (5,), rules, 0, 99, frozenset({1}))
    tokenizer: Any = text._tokenizer
    output = [*tokenizer.encode(answer, add_special_tokens=False)]
    return Sequence(request, output=output, finish_reason=FinishReason.STOP)


@pytest.mark.parametrize(
    ("answer", "params", "text_of_it"),
    [
        ("the cat sat", {"stop": " sat"}, "the cat"),
        ("the cat sat", {"stop": " sat", "include_stop_str_in_output": True}, "the cat sat"),
        ("the cat</s>", {}, "the cat"),
        ("the cat</s>", {"skip_special_tokens": False}, "the cat"),
        (
            "the cat</s>",
            {"skip_special_tokens": False, "include_stop_str_in_output": True},
            "the cat</s>",
        ),
        ("the<|user|> cat</s>", {}, "the cat"),
        ("the<|user|> cat</s>", {"skip_special_tokens": False}, "the<|user|> cat"),
        ("the<|user|> cat", {"skip_special_tokens": False, "stop": "r|> c"}, "the<|use"),
        ("the<|user|> cat", {"stop": "<|user|>", "include_stop_str_in_output": True}, "the"),
    ],
)
def test_what_is_shown_of_an_end(
    text: Text, answer: str, params: dict[str, Any], text_of_it: str
) -> None:
    assert answer_text(text, _finished(text, answer, **params)) == text_of_it


def test_a_prompt_beyond_the_model_is_not_told_to_raise_the_length() -> None:
    limits = Limits(max_model_len=10, kv_tokens=100, vocab_size=320, longest_len=20)
    for count, may_grow in ((15, True), (20, False), (500, False)):
        with pytest.raises(Exception, match="shorten it") as caught:
            limits.max_tokens((5,) * count, 1)
        assert ("--max-model-len" in str(caught.value)) is may_grow
