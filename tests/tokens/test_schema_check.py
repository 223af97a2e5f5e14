"""Schemas that llguidance would take and not keep to, and what it says of others."""

import json
from typing import Any

import pytest

from glinthawk.core.source import resolve_model
from glinthawk.core.structured_outputs import StructuredOutputsParams
from glinthawk.tokens.grammars import Grammars
from glinthawk.tokens.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(resolve_model("demo"))


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer)


def _refusal(grammars: Grammars, schema: Any) -> str:
    with pytest.raises(ValueError, match=r".") as raised:
        grammars.matcher(StructuredOutputsParams(json=json.dumps(schema)))
    return str(raised.value)


def _accepts(grammars: Grammars, tokenizer: Any, schema: Any, text: str) -> bool:
    matcher = grammars.matcher(StructuredOutputsParams(json=json.dumps(schema)))
    ids = tokenizer.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}, "x-guidance": {"lenient": True}}, "not"),
        ({"contains": {"const": 1}}, "contains"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, "oneOf"),
        ({"oneOf": [{}, {}], "x-guidance": {"coerce_one_of": True}}, "oneOf"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"items": {"properties": {"a": {"required": ["b"], "minProperties": 3}}}}, "minProper"),
        ({"patternProperties": {"a": {}}, "additionalProperties": False, "minProperties": 2}, "mi"),
        ({"const": "a\0b"}, "control characters"),
        ({"properties": {"a\x1f": {}}}, "control characters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_not_be_kept_to_is_refused_by_name(
    grammars: Grammars, schema: Any, keyword: str
) -> None:
    refusal = _refusal(grammars, schema)
    assert refusal.startswith("not supported: ")
    assert keyword in refusal


@pytest.mark.parametrize(
    ("schema", "text", "fits"),
    [
        (True, '{"a": [1]}', True),
        ({"type": "object", "minProperties": 1}, '{"a": 1}', True),
        ({"type": "object", "minProperties": 1}, "{}", False),
        ({"required": ["a"], "minProperties": 2, "type": "object"}, '{"a": 1}', False),
        ({"properties": {"minProperties": {"const": 7}}}, '{"minProperties": 7}', True),
        ({"enum": [{"minProperties": 7}]}, '{"minProperties": 7}', True),
        ({"const": "a\n\t"}, '"a\\n\\t"', True),
        # A name in disguise.
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\u0061": "x"}', False),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": "x"}', False),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"b": "x"}', True),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_taken_is_kept_to(
    grammars: Grammars, tokenizer: Any, schema: Any, text: str, fits: bool
) -> None:
    assert _accepts(grammars, tokenizer, schema, text) == fits


def test_a_deep_schema_is_looked_through(grammars: Grammars) -> None:
    schema = json.loads('{"items":' * 60 + '{"minProperties": 2}' + "}" * 60)
    assert "minProperties" in _refusal(grammars, schema)


def test_no_json_is_no_schema(grammars: Grammars) -> None:
    with pytest.raises(ValueError, match="column"):
        grammars.matcher(StructuredOutputsParams(json="{"))
