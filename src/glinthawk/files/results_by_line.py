"""The results of a job in the order of its input."""

import mmap
from array import array
from collections.abc import Iterator
from pathlib import Path

from glinthawk.core.errors import JournalError
from glinthawk.jobs.finished import read_line_number

__all__ = ["ResultsByLine"]


class ResultsByLine:
    """Whole result lines of ``path``, by their lines' numbers. Takes 8 bytes of memory a line of
    the input; what is read of the file is the system's to forget."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: One more than where each line's result begins; 0 is none.
        self._places = array("Q")
        self._index()

    def _index(self) -> None:
        place, places = 0, self._places
        with self._path.open("rb") as results:
            for result in results:
                number = read_line_number(result)
                if number is None:
                    raise JournalError(
                        f"{self._path} has what is no result at byte {place}; begin anew with "
                        "--restart"
                    )
                if number >= len(places):
                    places.frombytes(bytes(8 * (number + 1 + number // 8 - len(places))))
                places[number] = place + 1
                place += len(result)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(number of the line, its result), in order."""
        if not any(self._places):
            return
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
        ):
            for number, place in enumerate(self._places):
                if place:
                    view.seek(place - 1)
                    yield number, view.readline()
