"""One of several machines' share of an input."""

import re
from dataclasses import dataclass

from glinthawk.core.errors import UsageError

__all__ = ["Shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Every ``count``-th line, from the ``number``-th on, which counts from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of ``3/16``. Raises UsageError."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard: {text!r} is no share; write 3/16 for the third of 16")
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, line: int) -> bool:
        """Whether the line of this number, from 0, is in it."""
        return line % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
