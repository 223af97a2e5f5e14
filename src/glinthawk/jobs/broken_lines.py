"""Lines that are not JSON: what is wrong with them, and whose they are all the same."""

import json
import re
from typing import Any

__all__ = ["name_problem", "salvage_custom_id"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
#: Where it stands first, it can be read whatever comes behind it.
_CUSTOM_ID = re.compile(r'\s*\{\s*"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")')


def name_problem(raw: bytes, error: Exception) -> str:
    """Why a strict reader raised ``error`` for ``raw``, and what to do."""
    if isinstance(error, RecursionError):
        return "the line is nested too deeply; write it as in the README"
    if raw.lstrip().startswith(_BYTE_ORDER_MARK):
        return "a byte order mark stands before the line; remove it (files were joined, perhaps)"
    constants: list[str] = []
    whole = _decode(_lax(raw), constants)
    if constants:
        return f"{constants[0]} stands in the line, which JSON does not have; write null"
    if whole is not None and _SURROGATE.search(_lax(raw)):
        return "an unpaired surrogate stands in the line; write valid Unicode text"
    return f"the line is not JSON ({error}); write one object a line"


def salvage_custom_id(raw: bytes) -> str | None:
    """The custom_id of a line that no strict reader reads; None where there is none to be seen."""
    text = _lax(raw.lstrip().removeprefix(_BYTE_ORDER_MARK))
    envelope = _decode(text, [])
    if envelope is None and (found := _CUSTOM_ID.match(text)):
        envelope = {"custom_id": _decode(found[1], [])}
    custom_id = envelope.get("custom_id") if isinstance(envelope, dict) else None
    return custom_id if isinstance(custom_id, str) and _is_unicode(custom_id) else None


def _lax(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace")


def _decode(text: str, constants: list[str]) -> Any:
    """None if it is no JSON either. NaN and the like are added to ``constants``."""
    try:
        return json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError):
        return None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
