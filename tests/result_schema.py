"""Every line of an output is as the package's schema says."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

import glinthawk

__all__ = ["check_result", "error_of"]

_SCHEMA = Path(glinthawk.__file__).parent / "jobs" / "result_line.schema.json"


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(_SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check_result(result: dict[str, Any]) -> dict[str, Any]:
    """``result``, which fits."""
    _validator().validate(result)
    return result


def error_of(result: dict[str, Any]) -> dict[str, Any] | None:
    """Why a line has no answer, wherever that stands: with code and message."""
    if result["error"] is not None:
        return result["error"]
    body = result["response"]["body"]
    return body["error"] if result["response"]["status_code"] != 200 else None
