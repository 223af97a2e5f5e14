"""Bytes as they come, and as they are meant: unpacked, and in UTF-8."""

import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from glinthawk.core.errors import UsageError
from glinthawk.files.extras import load_extra

__all__ = ["Prefixed", "encoding_of", "telling_damage", "unpack", "utf8"]

_CHUNK = 1 << 17
#: Packed bytes at a time: there may be thousands in one.
_PACKED = 1 << 13
_HEAD = 4096

_UTF32 = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}
_UTF16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_UTF8_MARK = b"\xef\xbb\xbf"

#: What the libraries raise; Arrow's own are ValueError, OSError and NotImplementedError, too.
_DAMAGE = (
    *(OSError, EOFError, ValueError, NotImplementedError),
    *(zlib.error, lzma.LZMAError, csv.Error),
)

#: By first bytes: what it is, and what to do, where it is not read.
_REFUSED = {
    b"PK\x03\x04": "a ZIP file: unpack it first",
    b"ARROW1": "an Arrow file: save it as Parquet",
    b"ORC": "an ORC file: save it as Parquet",
    b"Obj\x01": "an Avro file: save it as Parquet",
    b"SQLite format 3": "a database: save its table as CSV or Parquet",
    b"\x7fELF": "a program: give -i a file of requests",
    b"\x93NUMPY": "an array of NumPy: save it as Parquet",
    b"%PDF": "a PDF: give -i a file of requests",
}


@contextmanager
def telling_damage(name: str) -> Iterator[None]:
    """What goes wrong while a file is read becomes a UsageError that names it."""
    try:
        yield
    except UnicodeError as error:
        raise UsageError(
            f"{name} is not text in UTF-8 ({error}); convert it, as iconv does"
        ) from error
    except _DAMAGE as error:
        raise UsageError(f"cannot read {name}: {error}; make or fetch it again") from error


class Prefixed(io.RawIOBase):
    """``head``, which was read to see what follows, and then the rest of ``raw``. ``is_packed``
    says that these bytes do not stand in the file as they are."""

    def __init__(self, raw: BinaryIO, *, is_packed: bool = False) -> None:
        self._raw, self.is_packed = raw, is_packed
        self.head = self._left = _read_head(raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            data = self._raw.read(len(buffer))
        else:
            data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _read_head(raw: BinaryIO) -> bytes:
    """A pipe gives what it has, which may be less than is to come."""
    head = b""
    while len(head) < _HEAD and (more := raw.read(_HEAD - len(head))):
        head += more
    return head


def unpack(raw: BinaryIO, name: str) -> Prefixed:
    """What is in ``raw``, unpacked as often as its first bytes say. Raises UsageError where they
    are of something else than text or Parquet."""
    stream = Prefixed(raw)
    while opened := _opener(stream.head):
        packed = cast(BinaryIO, io.BufferedReader(stream, _CHUNK))
        stream = Prefixed(opened(packed), is_packed=True)
    for magic, problem in _REFUSED.items():
        if stream.head.startswith(magic):
            raise UsageError(f"{name} is {problem}")
    return stream


def _opener(head: bytes) -> Callable[[BinaryIO], BinaryIO] | None:
    if head.startswith(b"\x1f\x8b"):
        return lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return lambda raw: cast(BinaryIO, io.BufferedReader(_Zstd(raw), _CHUNK))
    if head.startswith(b"BZh"):
        return lambda raw: cast(BinaryIO, bz2.BZ2File(raw))
    if head.startswith(b"\xfd7zXZ\0"):
        return lambda raw: cast(BinaryIO, lzma.LZMAFile(raw))
    return None


class _Zstd(io.RawIOBase):
    """Frames of Zstandard. The library's own reader takes a cut file for a whole one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._library = load_extra("zstandard", "a file packed by Zstandard")
        self._raw, self._frame, self._left = raw, None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            packed = self._raw.read(_PACKED)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self._left = self._unpacked(packed)
        data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _unpacked(self, packed: bytes) -> bytes:
        found = b""
        while packed:
            frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                found += frame.decompress(packed)
            except self._library.ZstdError as error:
                raise OSError(str(error)) from error
            self._frame, packed = (None, frame.unused_data) if frame.eof else (frame, b"")
        return found


def utf8(stream: Prefixed) -> BinaryIO:
    """Text of ``stream`` in UTF-8, without a byte order mark; of UTF-8 no byte is looked at."""
    encoding = encoding_of(stream.head)
    buffered = io.BufferedReader(stream, _CHUNK)
    if encoding is not None:
        return cast(
            BinaryIO, io.BufferedReader(_Recoded(cast(BinaryIO, buffered), encoding), _CHUNK)
        )
    if stream.head.startswith(_UTF8_MARK):
        buffered.read(len(_UTF8_MARK))
    return cast(BinaryIO, buffered)


def encoding_of(head: bytes) -> str | None:
    """UTF-16 or UTF-32, if text that begins with ``head`` is in it."""
    for marks in (_UTF32, _UTF16):
        for mark, encoding in marks.items():
            if head.startswith(mark):
                return encoding
    # Without a mark, what begins a line of JSON or CSV is ASCII, and ASCII has zeros beside it.
    if len(head) >= 2 and not head[1] and head[0]:
        return "utf-16-le"
    return "utf-16-be" if len(head) >= 2 and not head[0] and head[1] else None


class _Recoded(io.RawIOBase):
    def __init__(self, raw: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(raw, encoding=encoding, newline="")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = self._text.read(_CHUNK).encode()
        data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
