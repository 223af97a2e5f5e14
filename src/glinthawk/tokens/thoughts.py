"""Before an answer that keeps to a grammar: thoughts, which keep to none."""

import json
from collections.abc import Mapping
from typing import Any

from glinthawk.core.structured_outputs import Thoughts

__all__ = ["allow_thoughts"]

_ANSWER = "answer"
#: In Lark, as llguidance reads it. Models write an empty line between thoughts and answer.
_OPEN = "start: rest gap @answer"
_CLOSED = "start: (begin rest gap)? @answer\nbegin: {begin}"
_GAP = r"gap: /[ \t\r\n]{0,8}/"


def allow_thoughts(grammar: str, thoughts: Thoughts, special: Mapping[str, int]) -> str:
    """``grammar``, in any of llguidance's forms, behind ``thoughts``. Marks that are ``special``
    tokens have an id, and are no text."""
    first = _OPEN if thoughts.are_open else _CLOSED.format(begin=_mark(thoughts.begin, special))
    lark = "\n".join([first, _rest(thoughts.end, special), _GAP])
    answer, *others = _parts(grammar)
    whole = [{"lark_grammar": lark}, {**answer, "name": _ANSWER}, *others]
    return json.dumps({"grammars": whole})


def _parts(grammar: str) -> list[dict[str, Any]]:
    """A list of grammars, the first of which is the whole."""
    if not grammar.startswith("{"):
        return [{"lark_grammar": grammar}]
    parts: list[dict[str, Any]] = json.loads(grammar)["grammars"]
    return parts


def _mark(text: str, special: Mapping[str, int]) -> str:
    return f"<[{special[text]}]>" if text in special else json.dumps(text)


def _rest(end: str, special: Mapping[str, int]) -> str:
    """Any text up to the first ``end``."""
    if end in special:
        return rf"rest: /(.|\n)*/ {_mark(end, special)}"
    return rf"rest[suffix={json.dumps(end)}]: /(.|\n)*/"
