"""JSON over many lines: an array, or values one after another, as ``jq`` prints them."""

import io
import json
from collections.abc import Iterator
from typing import BinaryIO

from glinthawk.core.errors import UsageError

__all__ = ["JsonValues"]

_CHUNK = 1 << 16
#: Characters of one value: where there are more without an end, the file is damaged.
_LARGEST = 1 << 26
_SPACE = " \t\r\n"


class JsonValues:
    """Texts of the values in ``stream`` (UTF-8), on one line each; one in memory at a time.

    Iterating raises UsageError that says which value is wrong.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self._name = name
        self._buffer, self._place, self._more = "", 0, True
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        self._skip(_SPACE)
        is_array = self._here() == "["
        self._place += is_array
        while True:
            self._skip(_SPACE + "," if self._number else _SPACE)
            if self._here() == "]" and is_array:
                self._place += 1
                self._skip(_SPACE)
                if self._here():
                    raise self._error("there is more after the array's end")
                return
            if not self._here():
                if is_array:
                    raise self._error("the array has no end")
                return
            yield self._value()
            self._number += 1

    def _here(self) -> str:
        """The character that is next; empty at the end."""
        return self._buffer[self._place : self._place + 1]

    def _skip(self, those: str) -> None:
        while True:
            while self._here() and self._here() in those:
                self._place += 1
            if self._here() or not self._more:
                return
            self._read()

    def _read(self) -> None:
        """As much again as is in hand, so that a long value costs no more than twice its length."""
        left = self._buffer[self._place :]
        added = self._text.read(max(_CHUNK, len(left)))
        self._buffer, self._place, self._more = left + added, 0, bool(added)

    def _value(self) -> str:
        while True:
            problem = "it is cut off"
            try:
                _, end = _decode(self._buffer, self._place)
            except json.JSONDecodeError as error:
                problem = error.msg
            except RecursionError as error:
                raise self._error("it is nested too deeply") from error
            else:
                # A number that ends where the buffer does may go on.
                if end < len(self._buffer) or not self._more:
                    value, self._place = self._buffer[self._place : end], end
                    return value.replace("\n", " ").replace("\r", " ")
            if not self._more or len(self._buffer) - self._place > _LARGEST:
                raise self._error(problem)
            self._read()

    def _error(self, problem: str) -> UsageError:
        return UsageError(
            f"{self._name} is not JSON at value {self._number + 1}: {problem}; correct it, or "
            "write one object a line"
        )


_decode = json.JSONDecoder().raw_decode
