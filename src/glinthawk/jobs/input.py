"""The lines of an input, in order, and any of them again."""

from collections.abc import Iterator
from pathlib import Path

from glinthawk.core.errors import JournalError
from glinthawk.jobs.lines import read_custom_id
from glinthawk.jobs.survey import open_input

__all__ = ["InputLines"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class InputLines:
    """The first ``num_bytes`` of ``path``: what is added meanwhile waits. Use ``closing``."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._path, self._num_bytes = path, num_bytes
        self._again = open_input(path)

    def close(self) -> None:
        """Let go of the file."""
        self._again.close()

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """(number, offset, bytes) of each line that is not blank.

        Raises JournalError if the input has become shorter.
        """
        offset = 0
        with open_input(self._path) as lines:
            for line, raw in enumerate(lines):
                whole = raw[: self._num_bytes - offset]
                begin, offset = offset, offset + len(whole)
                if line == 0 and whole.startswith(_BYTE_ORDER_MARK):
                    begin, whole = len(_BYTE_ORDER_MARK), whole.removeprefix(_BYTE_ORDER_MARK)
                if whole.strip():
                    yield line, begin, whole
                if offset == self._num_bytes:
                    return
        if offset < self._num_bytes:
            raise JournalError(
                f"{self._path} became shorter while the job ran; put the old input back "
                "and run the same command again"
            )

    def custom_id_at(self, offset: int) -> str | None:
        """That of the line that begins at ``offset``."""
        self._again.seek(offset)
        return read_custom_id(self._again.readline(self._num_bytes - offset))
