"""Constraints of several kinds, each with the check that an answer passes."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema

from glinthawk.core.structured_outputs import StructuredOutputsParams

__all__ = ["STRUCTURED_CASES", "StructuredCase"]

_SCHEMAS: list[dict[str, Any]] = [
    {"type": "integer"},
    {"type": "integer", "minimum": 10, "maximum": 99},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": "string", "maxLength": 8},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z][a-z]{1,4}$"},
    {"type": "string", "format": "date"},
    {"enum": ["red", "green", 5, None]},
    {"const": {"fixed": [1, "two"]}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False},
    {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"type": ["integer", "null"]},
    {"$ref": "#/$defs/t", "$defs": {"t": {"enum": ["deep", "er"]}}},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]},
]
_MEMBERS: list[dict[str, Any]] = [
    {"a": {"type": "integer"}},
    {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 120}},
    {"b": {"type": "boolean"}, "c": {"enum": ["x", "y", "z"]}},
    {"list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
    {"in": {"type": "object", "properties": {"n": {"type": "null"}}, "required": ["n"]}},
    {"\u00e9t\u00e9": {"const": "\u65e5\u672c"}},
    {"t": {"type": "string", "format": "time"}, "q": {"const": 'a"b\\'}},
]
_OBJECTS = [
    {"type": "object", "properties": one, "required": [*one], "additionalProperties": False}
    for one in _MEMBERS
] + [{"type": "object", "properties": one, "additionalProperties": False} for one in _MEMBERS[:3]]
_REGEXES = [
    r"[a-z]+",
    r"[0-9]{4}-[0-9]{2}",
    r"(yes|no)( (please|thanks))?",
    r"\d+\.\d{2}",
    r"[A-F0-9]{8}",
    r"\$[1-9][0-9]*",
    "[\u00e9\u00e8]{2,3}",
    r"[^a-z\n]{1,6}",
    r"",
    r"(ab){2,5}",
]
_CHOICES = [
    ["yes", "no"],
    ["positive", "negative", "neutral"],
    ["a", "aa", "aaa"],
    ["\u65e5\u672c\u8a9e", "\U0001f642"],
    ['with "quotes"', "with\nlines", "back\\slash"],
    ["only"],
    ["", "something"],
]
#: Each with a regular expression that says the same, or nearly.
_GRAMMARS = [
    ('root ::= "x" [0-9]+ "y"', r"x[0-9]+y"),
    ('root ::= item ("," item)?\nitem ::= "a" | "b"', r"[ab](,[ab])?"),
    ('start: "SELECT " NAME\nNAME: /[a-z]{1,6}/', r"SELECT [a-z]{1,6}"),
    ("start: NUM (OP NUM)?\nNUM: /[0-9]{1,3}/\nOP: /[-+*]/", r"[0-9]{1,3}([-+*][0-9]{1,3})?"),
    ('root ::= "(" root ")" | "."', r"\(*\.\)*"),
    ('start: "<" TAG ">"\nTAG: "b" | "i"', r"<[bi]>"),
]


@dataclass(frozen=True)
class StructuredCase:
    """A constraint, and whether a text fits it."""

    wanted: StructuredOutputsParams
    fits: Callable[[str], bool]


def _fits_schema(schema: dict[str, Any]) -> Callable[[str], bool]:
    checker = jsonschema.Draft202012Validator(schema)
    return lambda text: checker.is_valid(json.loads(text))


def _fits_regex(regex: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(regex, text) is not None


def _cases() -> Iterator[StructuredCase]:
    for schema in (*_SCHEMAS, *_OBJECTS):
        # A model that knows no JSON may go on with spaces for ever.
        wanted = StructuredOutputsParams(json=schema, disable_any_whitespace=True)
        yield StructuredCase(wanted, _fits_schema(schema))
    for regex in _REGEXES:
        yield StructuredCase(StructuredOutputsParams(regex=regex), _fits_regex(regex))
    for choice in _CHOICES:
        yield StructuredCase(StructuredOutputsParams(choice=choice), set(choice).__contains__)
    for grammar, regex in _GRAMMARS:
        yield StructuredCase(StructuredOutputsParams(grammar=grammar), _fits_regex(regex))
    is_object = _fits_schema({"type": "object"})
    yield StructuredCase(StructuredOutputsParams(json_object=True), is_object)
    yield StructuredCase(StructuredOutputsParams(json={"type": "object"}), is_object)


STRUCTURED_CASES = tuple(_cases())
