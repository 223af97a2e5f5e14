"""One list of JSON objects in every form in which people have them."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import zstandard

__all__ = ["FORMS", "as_lines", "write_form", "write_memory"]

_Objects = Sequence[dict[str, Any]]


def as_lines(objects: _Objects) -> bytes:
    """JSONL."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


def _text(objects: _Objects) -> str:
    """With letters as they are, so that an encoding shows."""
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def _zstd(data: bytes) -> bytes:
    """In two frames, as two packed files put together are."""
    middle = len(data) // 2
    pack = zstandard.ZstdCompressor().compress
    return pack(data[:middle]) + pack(data[middle:])


def _gzip(data: bytes) -> bytes:
    middle = len(data) // 2
    return gzip.compress(data[:middle]) + gzip.compress(data[middle:])


#: By the name of the file, whose ending says nothing that its first bytes do not say.
FORMS: dict[str, Callable[[_Objects], bytes]] = {
    "plain.jsonl": as_lines,
    "no-end.jsonl": lambda objects: as_lines(objects).removesuffix(b"\n"),
    "mark.jsonl": lambda objects: b"\xef\xbb\xbf" + as_lines(objects),
    "a.jsonl.gz": lambda objects: _gzip(as_lines(objects)),
    "gzip-without-its-ending": lambda objects: _gzip(as_lines(objects)),
    "a.jsonl.zst": lambda objects: _zstd(as_lines(objects)),
    "a.bz2": lambda objects: bz2.compress(as_lines(objects)),
    "a.xz": lambda objects: lzma.compress(as_lines(objects)),
    "twice.gz.zst": lambda objects: _zstd(_gzip(as_lines(objects))),
    "utf-16.jsonl": lambda objects: _text(objects).encode("utf-16"),
    "utf-16-le.jsonl": lambda objects: _text(objects).encode("utf-16-le"),
    "utf-16-be.jsonl": lambda objects: _text(objects).encode("utf-16-be"),
    "utf-32.jsonl": lambda objects: _text(objects).encode("utf-32"),
    "utf-16.gz": lambda objects: gzip.compress(_text(objects).encode("utf-16")),
    "array.json": lambda objects: json.dumps(objects, indent=2).encode(),
    "array-on-a-line.json": lambda objects: json.dumps(objects).encode(),
    "objects.json": lambda objects: b"\n".join(json.dumps(o, indent=1).encode() for o in objects),
}


def write_form(folder: Path, form: str, objects: _Objects) -> str:
    """What to give as ``-i``."""
    path = folder / form
    path.write_bytes(FORMS[form](objects))
    return str(path)


def write_memory(name: str, data: bytes) -> str:
    """The URL of ``data`` in this process's memory."""
    url = f"memory://{name}"
    with fsspec.open(url, "wb") as file:
        file.write(data)
    return url
