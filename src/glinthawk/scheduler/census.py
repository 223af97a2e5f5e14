"""Those that live at a home, in columns: what is expected of all of them is asked at once."""

from array import array

import numpy as np

from glinthawk.core.sequence import Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.peak_forecast import Integers, PeakForecast

__all__ = ["Census"]


class Census:
    """A row for each sequence, in no order. A step of one costs a few writes; ``forecast``
    takes some nanoseconds of each."""

    def __init__(self) -> None:
        #: Of all of them, prompts and output, shared ones too.
        self.num_tokens = 0
        #: That are their own, when each is as long as it may become.
        self.most_own_tokens = 0
        self._row_of: dict[Sequence, int] = {}
        self._sequences: list[Sequence] = []
        #: Tokens of its prompt that are its own, of its output, most there can be of those, and
        #: whether it may end earlier.
        self._prompt = array("q")
        self._produced = array("q")
        self._longest = array("q")
        self._may_stop = array("b")

    def add(self, sequence: Sequence) -> None:
        """It lives here from now on."""
        request = sequence.request
        self._row_of[sequence] = len(self._sequences)
        self._sequences.append(sequence)
        self._prompt.append(len(request.prompt) - sequence.shared)
        self._produced.append(len(sequence.output))
        self._longest.append(request.max_tokens)
        self._may_stop.append(bool(request.stop_ids))
        self.num_tokens += sequence.length
        self.most_own_tokens += self._most_own(-1)

    def stepped(self, sequence: Sequence) -> None:
        """It has one token more."""
        self._produced[self._row_of[sequence]] += 1
        self.num_tokens += 1

    def remove(self, sequence: Sequence) -> None:
        """It has left; the last row takes the place of its."""
        row = self._row_of.pop(sequence)
        self.most_own_tokens -= self._most_own(row)
        self.num_tokens -= len(sequence.request.prompt) + self._produced[row]
        last = self._sequences.pop()
        for column in (self._prompt, self._produced, self._longest, self._may_stop):
            value = column.pop()
            if last is not sequence:
                column[row] = value
        if last is not sequence:
            self._sequences[row] = last
            self._row_of[last] = row

    def _most_own(self, row: int) -> int:
        # One that ends without a token is expected to take one.
        return self._prompt[row] + (self._longest[row] or 1)

    def forecast(self, page_tokens: int, lengths: AnswerLengths) -> PeakForecast:
        """Of all who live here."""
        produced = _as_array(self._produced)
        left = lengths.expect_all(
            _as_array(self._longest), produced, np.frombuffer(self._may_stop, np.bool_)
        )
        return PeakForecast(page_tokens, _as_array(self._prompt) + produced, left)


def _as_array(column: "array[int]") -> Integers:
    """No copy, so it must be gone before the column grows."""
    return np.frombuffer(column, np.int64)
