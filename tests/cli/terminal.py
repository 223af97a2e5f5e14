"""A command in a terminal of its own, and what a person then sees there."""

import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCSWINSZ

__all__ = ["Screen", "run_in_terminal"]

_COLUMNS = 80
_PARTS = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)|(\x1b.)")


class Screen:
    """Just as much of a terminal as progress bars use. Lines never leave it at the top."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Take in whole escape sequences."""
        for codes, command, carriage, newline, words, _ in _PARTS.findall(text):
            if command:
                self._obey(command, int(codes) if codes.isdigit() else 1)
            elif carriage:
                self._column = 0
            elif newline:
                self._go_to(self._row + 1)
            else:
                self._write(words)

    def _obey(self, command: str, count: int) -> None:
        if command == "A":
            self._row = max(0, self._row - count)
        elif command == "K":
            kept = "" if count == 2 else self.lines[self._row][: self._column]
            self.lines[self._row] = kept

    def _go_to(self, row: int) -> None:
        self._row = row
        self.lines += [""] * (row + 1 - len(self.lines))

    def _write(self, words: str) -> None:
        for letter in words:
            if self._column == _COLUMNS:
                self._column = 0
                self._go_to(self._row + 1)
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + letter + line[self._column + 1 :]
            self._column += 1


def run_in_terminal(
    *arguments: object, watch: Callable[[str, subprocess.Popen[bytes]], None] | None = None
) -> tuple[int, list[str], str]:
    """Exit status, what the screen shows at the end, and all that was written to it. ``watch`` is
    told of everything so far whenever there is more."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, _COLUMNS, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "glinthawk", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while chunk := _read(ours):
        said += chunk
        if watch is not None:
            watch(said.decode(errors="ignore"), process)
    os.close(ours)
    screen = Screen()
    screen.feed(said.decode(errors="replace"))
    return process.wait(), [line.rstrip() for line in screen.lines], said.decode(errors="replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: whoever was at the other end has gone
        return b""
