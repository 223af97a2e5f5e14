"""How a body says what its answer must look like."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glinthawk.core.errors import RequestError
from glinthawk.core.limits import Limits
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.jobs.lines import LineReader, Refusal, Task
from glinthawk.jobs.text import Text
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer
from job_files import line, results, run_job, write_input
from result_schema import error_of

_SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}
_AS_TEXT = json.dumps(_SCHEMA)
_TAGS = {
    "structures": [{"begin": "<f=one>", "schema": {"type": "integer"}, "end": "</f>"}],
    "triggers": ["<f="],
}


def _wanted(reader: LineReader, **body: Any) -> StructuredOutputsParams | None:
    read = reader.read(0, json.dumps(line(**body)).encode())
    assert isinstance(read, Task), read
    return read.params.structured_outputs


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": _SCHEMA, "strict": True},
                }
            },
            {"json": _AS_TEXT},
        ),
        ({"structured_outputs": {"json": _SCHEMA, "regex": None}}, {"json": _AS_TEXT}),
        ({"structured_outputs": {"json": _AS_TEXT}}, {"json": _AS_TEXT}),
        (
            {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
            {"json_object": True, "disable_any_whitespace": True},
        ),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["", "é"]}}, {"choice": ("", "é")}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
        ({"structured_outputs": {"structural_tag": _TAGS}}, {"structural_tag": _TAGS}),
        ({"response_format": {"type": "structural_tag", **_TAGS}}, {"structural_tag": _TAGS}),
        ({"guided_json": _SCHEMA}, {"json": _AS_TEXT}),
        ({"guided_regex": ""}, {"regex": ""}),
        ({"guided_choice": ["a"]}, {"choice": ("a",)}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ({"guided_regex": "a", "response_format": {"type": "text"}}, {"regex": "a"}),
    ],
)
def test_every_spelling_is_read(
    reader: LineReader, body: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert _wanted(reader, **body) == StructuredOutputsParams(**wanted)


def test_text_is_no_constraint(reader: LineReader) -> None:
    assert _wanted(reader, response_format={"type": "text"}) is None


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_object", "schema": {}}},
        {"structured_outputs": {}},
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        {"structured_outputs": {"structural_tag": "a"}},
        {"structured_outputs": {"structural_tag": {**_TAGS, "triggers": ["<g="]}}},
        {"structured_outputs": {"structural_tag": {**_TAGS, "triggers": ["<f=", "<g="]}}},
        {"structured_outputs": {"structural_tag": {"structures": [], "triggers": []}}},
        {"response_format": {"type": "structural_tag"}},
        {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
        {"response_format": {"type": "json_object", "triggers": ["a"]}},
        {"response_format": {"type": "text", "structures": []}},
        {"structured_outputs": {"regex": "[0-"}},
        {"guided_json": "{"},
        {"guided_json": [1]},
        {"guided_json": {"type": "nothing"}},
        {"guided_json": {"type": "array", "uniqueItems": True}},
        {"guided_json": {"$ref": "http://localhost/schema"}},
        {"guided_json": json.loads('{"items":' * 150 + "{}" + "}" * 150)},
        {"guided_regex": "(?=a)b"},
        {"guided_regex": r"[^\s\S]"},
        {"guided_json": {"$ref": "#"}},
        {"guided_grammar": "start: start"},
        {"guided_choice": []},
        {"guided_choice": [1]},
        {"guided_grammar": "start: nothing"},
        {"guided_grammar": "@"},
        {"guided_grammar": ""},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_what_is_wrong_names_its_field(reader: LineReader, body: dict[str, Any]) -> None:
    read = reader.read(0, json.dumps(line(**body)).encode())
    assert isinstance(read, Refusal), read
    (name,) = body
    assert read.error.param == name
    assert str(read.error).startswith(name)


def test_two_constraints_are_one_too_many(reader: LineReader) -> None:
    body = {"response_format": {"type": "json_object"}, "guided_regex": "a"}
    read = reader.read(0, json.dumps(line(**body)).encode())
    assert isinstance(read, Refusal)
    assert str(read.error) == "guided_regex stands beside response_format; give one"


def test_an_error_says_why_it_cannot_be_compiled(text: Text) -> None:
    with pytest.raises(RequestError, match=r"regex cannot be compiled \(.*unclosed character"):
        text.require_grammar(StructuredOutputsParams(regex="[0-"))


def test_without_a_tokenizer_nothing_is_structured() -> None:
    reader = LineReader(Text(None), Limits(256, 1024, 320), "tiny")
    read = reader.read(0, json.dumps(line(guided_regex="a")).encode())
    assert isinstance(read, Refusal)
    assert read.error.param == "guided_regex"
    assert "no tokenizer files" in str(read.error)


def test_a_slow_tokenizer_is_refused_by_name() -> None:
    class _Slow:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(ValueError, match=r"tokenizer takes no grammars .*fast"):
        Grammars(_Slow()).matcher(StructuredOutputsParams(regex="a"))


def test_a_bad_constraint_is_its_lines_own_error(tmp_path: Path, text: Text) -> None:
    lines = [line("a"), line("b", guided_regex="["), line("c", guided_regex="[a-z]+")]
    source, output = write_input(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    run_job(source, output, text=text)
    errors = {result["custom_id"]: error_of(result) for result in results(output)}
    assert errors.keys() == {"a", "b", "c"}
    assert [name for name, error in errors.items() if error is not None] == ["b"]
    assert "cannot be compiled" in str(results(output))


@pytest.mark.parametrize("folder", ["bpe_folder", "fallback_folder"])
def test_walks_through_a_grammar_spell_what_fits(
    folder: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = load_tokenizer(request.getfixturevalue(folder))
    text, grammars, draw = Text(tokenizer), Grammars(tokenizer), random.Random(0)
    prompt = text.encode("the cat")
    for regex in (r"[a-h]{1,3}( the){2}", "é?日🙂", r'\{"a": [0-9]{1,2}\}'):
        for _ in range(20):
            matcher, output = grammars.matcher(StructuredOutputsParams(regex=regex)), list[int]()
            while not matcher.is_stopped():
                bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
                output.append(draw.choice(np.flatnonzero(np.unpackbits(bits, bitorder="little"))))
                assert matcher.consume_token(int(output[-1]))
            ends = output[-1] == tokenizer.eos_token_id
            answer = text.answer(prompt, output[:-1] if ends else output)
            assert re.fullmatch(regex, answer), (answer, output)
