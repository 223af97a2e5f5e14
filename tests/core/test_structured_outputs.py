"""StructuredOutputsParams: one constraint, as plain data."""

import json
from typing import Any

import msgspec
import pytest

from glinthawk.core.structured_outputs import StructuredOutputsParams

_SCHEMA = {"type": "object", "properties": {"b": {}, "a": {"enum": ["é"]}}}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"json": _SCHEMA}, "json"),
        ({"json": json.dumps(_SCHEMA), "json_object": False}, "json"),
        ({"regex": ""}, "regex"),
        ({"choice": ["a", ""], "json_object": None}, "choice"),
        ({"grammar": "a"}, "grammar"),
        ({"json_object": True, "disable_any_whitespace": True}, "json_object"),
    ],
)
def test_a_constraint_is_plain_data(given: dict[str, Any], kind: str) -> None:
    wanted = StructuredOutputsParams(**given)
    assert wanted.kind == kind
    sent = msgspec.msgpack.encode(wanted)
    come = msgspec.msgpack.decode(sent, type=StructuredOutputsParams)
    assert (come, hash(come)) == (wanted, hash(wanted))


def test_a_schema_keeps_its_order() -> None:
    wanted = StructuredOutputsParams(json=_SCHEMA)
    assert isinstance(wanted.json, str)
    assert list(json.loads(wanted.json)["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"json_object": False},
        {"regex": "a", "choice": ["a"]},
        {"json": "{}", "json_object": True},
        {"regex": 5},
        {"json": 5},
        {"json": {"a": {1}}},
        {"grammar": ["a"]},
        {"choice": []},
        {"choice": "abc"},
        {"choice": ["a", 5]},
    ],
)
def test_what_is_wrong_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^structured_outputs"):
        StructuredOutputsParams(**given)
