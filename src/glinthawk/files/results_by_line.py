"""The results of a job in the order of its input."""

from array import array
from collections.abc import Iterator
from pathlib import Path

from glinthawk.core.errors import JournalError
from glinthawk.jobs.finished import read_line_number

__all__ = ["ResultsByLine"]


_NEAR = 1 << 16


class ResultsByLine:
    """Whole result lines of ``path``, by their lines' numbers. Takes 8 bytes of memory a line of
    the input."""

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
        # Results are in the input's order but for what ran at once, so the next is often at hand.
        with self._path.open("rb", buffering=_NEAR) as file:
            for number, place in enumerate(self._places):
                if place:
                    file.seek(place - 1)
                    yield number, file.readline()
