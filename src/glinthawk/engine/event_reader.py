"""Reads what ``event_log`` wrote, and says where a log is cut or damaged."""

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from glinthawk.core.errors import UsageError
from glinthawk.engine.event_log import FORMAT, End, Header
from glinthawk.scheduler.records import Record

__all__ = ["EventReader"]

_line = msgspec.json.Decoder(Record | End)
_header = msgspec.json.Decoder(Header)


class EventReader:
    """An event log. Raises UsageError for what is none. Use it with ``closing``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}; give an event log") from error
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise
        #: How the run ended, once all events are read.
        self.end: End | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Numbered events. Raises UsageError where they are damaged, or end without an end."""
        checksum, number = 0, self.header.first
        for line in self._file:
            record = self._decode(line, number)
            if isinstance(record, End):
                self._finish(record, number - self.header.first, checksum)
                return
            yield number, record
            checksum, number = crc32(line, checksum), number + 1
        raise UsageError(
            f"{self._path} ends after event {number - 1} without its end: the run was killed, or "
            "still runs; the events up to there are whole"
        )

    def _read_header(self) -> Header:
        try:
            header = _header.decode(self._file.readline())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self._path} is no event log ({error}); give one that `glinthawk run "
                "--event-log` wrote"
            ) from error
        if header.format != FORMAT:
            raise UsageError(
                f"{self._path} is of format {header.format}, by glinthawk {header.glinthawk}, and "
                f"this one reads format {FORMAT}: use that version"
            )
        return header

    def _decode(self, line: bytes, number: int) -> Record | End:
        if not line.endswith(b"\n"):
            raise UsageError(
                f"{self._path} ends within event {number}: the run was killed, or still runs; the "
                "events before it are whole"
            )
        try:
            record: Record | End = _line.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged(f"event {number} cannot be read ({error})") from error
        return record

    def _finish(self, end: End, num_events: int, checksum: int) -> None:
        if end.num_events != num_events:
            raise self._damaged(f"it has {num_events} events where {end.num_events} were written")
        if end.crc32 != checksum:
            raise self._damaged("the checksum of its events is not the one they had")
        if self._file.readline():
            raise self._damaged("something follows its end")
        self.end = end

    def _damaged(self, what: str) -> UsageError:
        return UsageError(f"{self._path} is damaged: {what}; get a good copy of it")
