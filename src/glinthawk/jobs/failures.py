"""Which lines failed, and for what reasons."""

import re
from dataclasses import dataclass

import msgspec

from glinthawk.jobs.line_set import LineSet

__all__ = ["Failures", "Reason"]

#: Texts that people wrote may stand in reasons: so many are kept apart, all others are one.
_MOST_REASONS = 1000
#: What differs between lines that failed for one reason: numbers, and what is quoted.
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:[.,]\d+)*")


@dataclass(slots=True)
class Reason:
    """``message`` is that of the first line, which counts from 0."""

    message: str
    count: int
    line: int


class _Error(msgspec.Struct):
    message: str = ""


class _Body(msgspec.Struct):
    error: _Error | None = None


class _Response(msgspec.Struct):
    body: _Body | None = None


class _Result(msgspec.Struct):
    error: _Error | None = None
    response: _Response | None = None


_results = msgspec.json.Decoder(_Result)


class Failures:
    """Lines whose result is an error: a bit for each line of the input, and some reasons."""

    def __init__(self) -> None:
        self._lines = LineSet()
        self._reasons: dict[str, Reason] = {}

    def __contains__(self, line: int) -> bool:
        return line in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: int, result: bytes) -> None:
        """Take in ``line``, which ``result`` tells of; once only."""
        self._lines.add(line)
        message = _message(result)
        kind = _PARTICULARS.sub("#", message)
        if kind not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            kind = message = "other reasons; see their results"
        reason = self._reasons.setdefault(kind, Reason(message, 0, line))
        reason.count += 1
        if line < reason.line:
            reason.message, reason.line = message, line

    def reasons(self) -> list[Reason]:
        """The most frequent one first; of those alike, by their first lines."""
        return sorted(self._reasons.values(), key=lambda one: (-one.count, one.line))


def _message(result: bytes) -> str:
    found = _results.decode(result)
    inner = found.response.body.error if found.response and found.response.body else None
    return next((one.message for one in (found.error, inner) if one and one.message), "unknown")
