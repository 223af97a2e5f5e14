"""Weight files that are not what they should be, named before anything reads them.

A safetensors file is 8 bytes of length, a JSON header of so many bytes, and the tensors, whose
``data_offsets`` in the header count from its end (the format's own description).
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from glinthawk.core.errors import ModelError

__all__ = ["check_shards"]

_POINTER = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int] = (0, 0)


def check_shards(folder: Path) -> None:
    """Raise ModelError that names the first file of ``folder`` that is no whole safetensors file.
    A hub name is no folder, and what the hub's client has fetched it has checked."""
    for path in _shards(folder):
        if (fault := _fault(path)) is not None:
            raise ModelError(f"{path} {fault}")


def _shards(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.safetensors"))


def _fault(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(len(_POINTER) - 8)).startswith(_POINTER):
            return "is a git-lfs pointer, not the weights; run `git lfs pull` in its folder"
        if size < 8:
            return f"has {size} bytes and no weights; download it again"
        (length,) = struct.unpack("<Q", start)
        if length > min(_LONGEST_HEADER, size - 8):
            return "is cut off in its header, or is no safetensors file; download it again"
        file.seek(8)
        header = file.read(length)
    try:
        tensors = msgspec.json.decode(header, type=dict[str, _Tensor])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "has a header that cannot be read; download it again"
    end = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if size < end:
        return f"is cut off: {size:,} of {end:,} bytes are there; download it again"
    return None
