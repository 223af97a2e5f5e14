"""A drive as people name it: the folder on it, and how much of it to use."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from glinthawk.core.errors import UsageError
from glinthawk.core.units import parse_size

__all__ = ["Drive", "parse_drives"]


@dataclass(frozen=True, slots=True)
class Drive:
    """Room for pages of KV in a folder."""

    folder: Path
    num_bytes: int

    @classmethod
    def parse(cls, text: str) -> "Drive":
        """Raises UsageError.

        >>> Drive.parse("/mnt/nvme0:200GiB").num_bytes // 2**30
        200
        """
        folder, _, size = text.rpartition(":")
        if not folder:
            raise UsageError(f"{text!r} is not a drive; write its folder and a size: /mnt/a:200GiB")
        num_bytes = parse_size(size)
        if num_bytes < 1:
            raise UsageError(f"{text!r} leaves no room on the drive; give it a size like 200GiB")
        return cls(Path(folder), num_bytes)

    def __str__(self) -> str:
        return f"{self.folder}:{self.num_bytes}"


def parse_drives(texts: Iterable[str]) -> tuple[Drive, ...]:
    """Several. Raises UsageError."""
    return tuple(map(Drive.parse, texts))
