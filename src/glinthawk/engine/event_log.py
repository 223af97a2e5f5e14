"""The scheduler's events, kept in memory or in a file as JSON lines, and read again.

The first line says what scheduler it was (``Header``), then each event has a line, and the last one
(``End``) says how many there are, with their CRC-32. A log without its end is of a run that was
killed, or that still runs.
"""

import platform
from collections import deque
from pathlib import Path
from typing import Protocol
from zlib import crc32

import msgspec

from glinthawk import __version__
from glinthawk.core.errors import UsageError
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.records import Record

__all__ = ["FORMAT", "End", "EventFile", "EventLog", "EventRing", "Header"]

#: Another one cannot be read.
FORMAT = 1
#: What is kept in memory: so many events, or fewer of large batches and long prompts.
_MOST_EVENTS, _MOST_BYTES = 10_000, 64 << 20

_encode = msgspec.json.Encoder().encode


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """``first`` is the number of the first event that is there: 0, or the beginning is lost."""

    format: int = FORMAT
    glinthawk: str = __version__
    python: str = platform.python_version()
    limits: BatchLimits
    page_tokens: int
    first: int = 0


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """``error`` is what ended the run, if it was unexpected."""

    num_events: int
    crc32: int
    error: str | None = None


class EventLog(Protocol):
    """What an engine tells the scheduler's events to."""

    def begin(self, limits: BatchLimits, page_tokens: int) -> None:
        """A scheduler is made."""
        ...

    def add(self, record: Record) -> None:
        """It was called."""
        ...

    def save(self, error: str | None = None) -> Path | None:
        """No more events come. Where the log is now, if it was begun and is kept."""
        ...


class EventRing:
    """The last events, in memory; written beside ``output`` only if an unexpected error occurs."""

    def __init__(
        self, path: Path, most_events: int = _MOST_EVENTS, most_bytes: int = _MOST_BYTES
    ) -> None:
        self._path = path
        self._most_events, self._most_bytes = most_events, most_bytes
        self._header: Header | None = None
        self._lines: deque[bytes] = deque()
        self._num_bytes = self._num_dropped = 0

    def begin(self, limits: BatchLimits, page_tokens: int) -> None:
        """See EventLog."""
        self._header = Header(limits=limits, page_tokens=page_tokens)

    def add(self, record: Record) -> None:
        """As bytes, which take less memory than what they are made of."""
        line = _encode(record)
        self._lines.append(line)
        self._num_bytes += len(line)
        while len(self._lines) > self._most_events or self._num_bytes > self._most_bytes:
            self._num_bytes -= len(self._lines.popleft())
            self._num_dropped += 1

    def save(self, error: str | None = None) -> Path | None:
        """Write them if there was an ``error``; raises OSError where that cannot be."""
        if error is None or self._header is None:
            return None
        header = msgspec.structs.replace(self._header, first=self._num_dropped)
        body = b"".join(line + b"\n" for line in self._lines)
        end = End(len(self._lines), crc32(body), error)
        self._path.write_bytes(_encode(header) + b"\n" + body + _encode(end) + b"\n")
        return self._path


class EventFile:
    """All events, in a file. Raises UsageError when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._crc32 = self._num_events = 0
        self._is_begun = False
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise self._cannot_write(error) from error

    def begin(self, limits: BatchLimits, page_tokens: int) -> None:
        """See EventLog."""
        self._is_begun = True
        self._write(_encode(Header(limits=limits, page_tokens=page_tokens)) + b"\n")

    def add(self, record: Record) -> None:
        """Written when a buffer is full."""
        line = _encode(record) + b"\n"
        self._crc32 = crc32(line, self._crc32)
        self._num_events += 1
        self._write(line)

    def save(self, error: str | None = None) -> Path | None:
        """End the file."""
        end = _encode(End(self._num_events, self._crc32, error)) + b"\n"
        try:
            with self._file as file:
                file.write(end if self._is_begun else b"")
        except OSError as problem:
            raise self._cannot_write(problem) from problem
        return self._path if self._is_begun else None

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> UsageError:
        return UsageError(f"--event-log: cannot write {self._path}: {error.strerror}")
