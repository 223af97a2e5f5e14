"""Free text with tagged parts."""

from typing import Any

import pytest

from glinthawk.core.source import resolve_model
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer

_ONE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
_TAGS = {
    "type": "structural_tag",
    "structures": [
        {"begin": "<f=one>", "schema": _ONE, "end": "</f>"},
        {"begin": "<f=two>", "schema": {"const": "x"}, "end": "</f>"},
        {"begin": "[list]", "schema": {"type": "array", "items": {"const": 1}}, "end": ""},
    ],
    "triggers": ["<f=", "[l"],
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(resolve_model("demo"))


@pytest.mark.parametrize(
    ("text", "is_begun", "is_whole"),
    [
        ("", True, True),
        ("any text, even a < b\nor <g=one>", True, True),
        ("so: <f=", True, False),
        ("so: <f=three>", False, False),
        ('so: <f=one>{"a": 1', True, False),
        ('so: <f=one>{"a": 1}</f>', True, True),
        ('so: <f=one>{"a": "1"}</f>', False, False),
        ('so: <f=one>"x"</f>', False, False),
        ('<f=two>"x"</f> and <f=one>{"a": 2}</f> and [list][1, 1] done', True, True),
        ('<f=two>"x"</f><f=two>"y"</f>', False, False),
    ],
)
def test_text_is_free_up_to_a_trigger(
    tokenizer: Any, text: str, is_begun: bool, is_whole: bool
) -> None:
    matcher = Grammars(tokenizer).matcher(StructuredOutputsParams(structural_tag=_TAGS))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert (matcher.try_consume_tokens(ids) == len(ids)) == is_begun
    assert (is_begun and matcher.is_accepting()) == is_whole


def test_schemas_of_tags_have_spaces_or_none(tokenizer: Any) -> None:
    ids = tokenizer.encode('<f=one>{"a": 1}</f>', add_special_tokens=False)
    for is_compact in (False, True):
        wanted = StructuredOutputsParams(structural_tag=_TAGS, disable_any_whitespace=is_compact)
        matcher = Grammars(tokenizer).matcher(wanted)
        assert (matcher.try_consume_tokens(ids) == len(ids)) != is_compact


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"triggers": ["<g="]}, "begins with no trigger"),
        ({"triggers": ["<f=", "[l", "<h"]}, "no structure begins with the trigger '<h'"),
        ({"triggers": ["", "[l"]}, "no empty trigger"),
        ({"structures": []}, "needs a structure"),
        ({"format": {"type": "any_text"}}, 'give "structures" and "triggers"'),
        ({"structures": [{"begin": "<f=", "schema": {"not": {}}, "end": ""}]}, "no structure"),
        ({"structures": [{"begin": "<f=", "end": ""}]}, "schema"),
    ],
)
def test_what_is_wrong_is_said(tokenizer: Any, change: dict[str, Any], said: str) -> None:
    wanted = StructuredOutputsParams(structural_tag={**_TAGS, **change})
    with pytest.raises(ValueError, match=r".") as raised:
        Grammars(tokenizer).matcher(wanted)
    assert said in str(raised.value)


def test_schemas_of_tags_are_checked(tokenizer: Any) -> None:
    for schema in ({"minProperties": 2}, {"not": {}, "x-guidance": {"lenient": True}}):
        tags = {"structures": [{"begin": "<", "schema": schema, "end": ">"}], "triggers": ["<"]}
        wanted = StructuredOutputsParams(structural_tag=tags)
        with pytest.raises(ValueError, match="not supported: keyword"):
            Grammars(tokenizer).matcher(wanted)
