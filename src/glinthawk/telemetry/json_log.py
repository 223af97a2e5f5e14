"""Standard error as lines of JSON, for whoever collects logs."""

import io
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO

import msgspec

__all__ = ["log_as_json"]

#: How ``glinthawk`` says why it could not run.
_ERROR = "glinthawk: "


def log_as_json() -> None:
    """From now on each line of standard error is an object with ``time``, ``level``, ``logger`` and
    ``message``; what a library logs has its level and, after an exception, its ``traceback``."""
    stream = _JsonLines(sys.stderr)
    sys.stderr = stream
    handler = _Handler(stream)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class _JsonLines(io.TextIOBase):
    """Whatever is written to it; a line that is not whole waits for its end."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._rest = ""

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.say("error" if line.startswith(_ERROR) else "info", "glinthawk", line)
        return len(text)

    def say(self, level: str, logger: str, message: str, **more: str) -> None:
        """One object."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        said = {"time": now, "level": level, "logger": logger, "message": message, **more}
        self._target.write(msgspec.json.encode(said).decode() + "\n")
        self._target.flush()

    def flush(self) -> None:
        self._target.flush()

    def fileno(self) -> int:
        return self._target.fileno()


class _Handler(logging.Handler):
    def __init__(self, stream: _JsonLines) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        more = {}
        if record.exc_info:
            more["traceback"] = logging.Formatter().formatException(record.exc_info)
        level = record.levelname.lower()
        self._stream.say(level, record.name, record.getMessage(), **more)
