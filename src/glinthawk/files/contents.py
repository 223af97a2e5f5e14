"""What a file has in it, by its first bytes: lines, JSON values over many lines, CSV, Parquet."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO, cast

from glinthawk.files.byte_streams import Prefixed, encoding_of, unpack, utf8
from glinthawk.files.parts import Part, unpacked_name

__all__ = ["Content", "Form", "open_content"]

_CHUNK = 1 << 16
_PARQUET = b"PAR1"


class Form(Enum):
    """How a content is read."""

    LINES = "lines of JSON"
    VALUES = "JSON over many lines"
    CSV = "CSV"
    PARQUET = "Parquet"


@dataclass(frozen=True, slots=True)
class Content:
    """``stream`` is unpacked and in UTF-8; of Parquet it is as it lies, to be read anywhere.
    ``is_plain`` says that the file's own bytes are these."""

    form: Form
    stream: BinaryIO
    is_plain: bool = False


@contextmanager
def open_content(part: Part, *, is_table: bool = False) -> Iterator[Content]:
    """What is neither JSON nor Parquet is CSV if its name says so, or a table is awaited.

    Raises UsageError where it is something else by its first bytes.
    """
    with part.open() as raw:
        stream = unpack(raw, part.name)
        if stream.head.startswith(_PARQUET):
            with _seekable(raw, stream) as file:
                yield Content(Form.PARQUET, file)
            return
        is_plain = not stream.is_packed and encoding_of(stream.head) is None
        text = utf8(stream)
        head = cast(io.BufferedReader, text).peek(_CHUNK)
        yield Content(_form(head, part.name, is_table), text, is_plain)


def _form(head: bytes, name: str, is_table: bool) -> Form:
    begin = head.lstrip()
    if _is_csv(name):
        return Form.CSV
    if begin.startswith(b"["):
        return Form.VALUES
    if begin.startswith(b"{"):
        # Alone on its line it begins an object that goes on over many.
        return Form.VALUES if begin.split(b"\n", 1)[0].strip() == b"{" else Form.LINES
    return Form.CSV if is_table else Form.LINES


def _is_csv(name: str) -> bool:
    """Packed once at most: ``rows.csv``, ``rows.csv.gz``."""
    return unpacked_name(name).endswith((".csv", ".tsv"))


@contextmanager
def _seekable(raw: BinaryIO, stream: Prefixed) -> Iterator[BinaryIO]:
    """Parquet is read from its end. What cannot be, as it comes by a pipe or is packed once more,
    is copied to a file without a name first."""
    if raw.seekable() and not stream.is_packed:
        raw.seek(0)
        yield raw
        return
    with tempfile.TemporaryFile() as copy:
        while chunk := stream.read(_CHUNK):
            copy.write(chunk)
        copy.seek(0)
        yield cast(BinaryIO, copy)
