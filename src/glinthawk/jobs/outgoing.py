"""Finished answers become result lines: short ones here, long ones by the front."""

from collections import deque
from collections.abc import Callable

from glinthawk.jobs.front import Front, Parcel
from glinthawk.jobs.text_work import Answered, Work

__all__ = ["Outgoing"]

#: A shorter answer without log-probabilities takes no longer to write than to send.
_LONG = 64
#: A parcel ends with the answer that comes to so many answers or tokens.
_MOST_ANSWERS, _MOST_TOKENS = 16, 4096
_MOST_AWAY = 16

_Parcel = tuple[list[int], Parcel]


class Outgoing:
    """``write`` is given each line's number and its result, once, when that is there."""

    def __init__(self, front: Front, write: Callable[[int, bytes], None]) -> None:
        self._front, self._write = front, write
        self._packed: list[Answered] = []
        self._num_tokens = 0
        self._away: deque[_Parcel] = deque()

    def add(self, answered: Answered) -> None:
        """Have an answer written, now or later; not many wait."""
        if not (self._front.is_parallel and _is_worth_sending(answered)):
            [result] = self._front.do(Work(answers=[answered]))
            assert isinstance(result, bytes)
            self._write(answered[0].line, result)
            return
        self._packed.append(answered)
        self._num_tokens += _num_tokens(answered)
        if len(self._packed) >= _MOST_ANSWERS or self._num_tokens >= _MOST_TOKENS:
            self._send_packed()
        while len(self._away) > _MOST_AWAY:
            self._take_in(self._away.popleft())

    def collect(self) -> None:
        """Write what is back, and send what waits; call it often."""
        self._send_packed()
        back = [parcel for parcel in self._away if parcel[1].is_back]
        if back:
            self._away = deque(parcel for parcel in self._away if parcel not in back)
        for parcel in back:
            self._take_in(parcel)

    def finish(self) -> None:
        """Write everything."""
        self._send_packed()
        while self._away:
            self._take_in(self._away.popleft())

    def _send_packed(self) -> None:
        if self._packed:
            self._away.append(self._send(self._packed))
            self._packed, self._num_tokens = [], 0

    def _send(self, answers: list[Answered]) -> _Parcel:
        return [task.line for task, _ in answers], self._front.hand(Work(answers=answers))

    def _take_in(self, parcel: _Parcel) -> None:
        lines, work = parcel
        for line, result in zip(lines, work.open(), strict=True):
            assert isinstance(result, bytes)
            self._write(line, result)


def _num_tokens(answered: Answered) -> int:
    return sum(len(sequence.output) for sequence in answered[1])


def _is_worth_sending(answered: Answered) -> bool:
    task = answered[0]
    is_wide = task.params.logprobs is not None or task.wish is not None
    return is_wide or _num_tokens(answered) >= _LONG
