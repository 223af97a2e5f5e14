"""Lines become tasks: read ahead by the front, as far as somebody works there."""

from collections import deque
from collections.abc import Callable, Iterator

from glinthawk.jobs.front import Front, Parcel
from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.text_work import Work

__all__ = ["read_tasks"]

#: A parcel ends with the line that comes to so many lines or bytes.
_MOST_LINES, _MOST_BYTES = 32, 1 << 18
_MOST_AHEAD = 16
#: So often the engine goes on without a parcel that is late; then it is done here.
_PATIENCE = 8


def read_tasks(
    front: Front, lines: Iterator[tuple[int, bytes]], is_busy: Callable[[], bool]
) -> Iterator[Task | Refusal | None]:
    """What ``lines`` ask for, in their order. None: the next is not there yet, and there is other
    work to do, as ``is_busy`` says; ask again later.

    A bounded number of lines and bytes is read ahead; without processes, a parcel.
    """
    ahead: deque[Parcel] = deque()
    while True:
        most = _MOST_AHEAD if front.is_parallel else 1
        while len(ahead) < most and (work := _cut(lines)):
            ahead.append(front.hand(work))
        if not ahead:
            return
        for _ in range(_PATIENCE):
            if ahead[0].is_back or not is_busy():
                break
            yield None
        for task in ahead.popleft().open():
            assert not isinstance(task, bytes)
            yield task


def _cut(lines: Iterator[tuple[int, bytes]]) -> Work | None:
    """The next lines for a parcel."""
    taken: list[tuple[int, bytes]] = []
    num_bytes = 0
    for line, raw in lines:
        taken.append((line, raw))
        num_bytes += len(raw)
        if len(taken) == _MOST_LINES or num_bytes >= _MOST_BYTES:
            break
    return Work(lines=taken) if taken else None
