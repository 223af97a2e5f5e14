"""Which batches are under way: the most urgent ones, as many as there is room for."""

import heapq
import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue

from glinthawk.serve.batch_life import Heard, Tidings

__all__ = ["BatchEntry", "BatchQueue"]


@dataclass(order=True, slots=True)
class BatchEntry:
    """A batch in which something is left to do; the most urgent is the least. ``not_before`` is of
    ``time.monotonic``."""

    expires_at: int
    number: int
    owner: str = field(compare=False)
    id: str = field(compare=False)
    not_before: float = field(default=0.0, compare=False)
    makes_way: bool = field(default=False, compare=False)
    tidings: Heard = field(default_factory=SimpleQueue, compare=False)


class BatchQueue:
    """May be called by any thread. Whoever takes a batch says when it leaves; where ``most`` are
    under way, the least urgent of them is told to make way for one that is more urgent."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: list[BatchEntry] = []
        self._paused: list[BatchEntry] = []
        self._running: dict[str, BatchEntry] = {}
        self._is_closed = False

    def add(self, entry: BatchEntry, pause_s: float = 0.0) -> None:
        """Let it wait for its turn; after ``pause_s`` seconds, if those are given."""
        with self._changed:
            # What was said to it before is over.
            entry.makes_way, entry.tidings = False, SimpleQueue()
            if pause_s:
                entry.not_before = time.monotonic() + pause_s
                self._paused.append(entry)
            else:
                heapq.heappush(self._waiting, entry)
            self._make_room()
            self._changed.notify_all()

    def take(self) -> BatchEntry | None:
        """The most urgent one, as soon as there is room for it; None when all is over."""
        with self._changed:
            while not self._is_closed:
                next_pause = self._end_pauses()
                if self._waiting and len(self._running) < self._most:
                    entry = heapq.heappop(self._waiting)
                    self._running[entry.id] = entry
                    return entry
                self._changed.wait(next_pause)
            return None

    def leave(self, entry: BatchEntry) -> None:
        """It is under way no more."""
        with self._changed:
            del self._running[entry.id]
            self._changed.notify_all()

    def withdraw(self, id: str) -> BatchEntry | None:
        """One that waits, which it does no more from now on; None if it does not."""
        with self._changed:
            for entries in (self._waiting, self._paused):
                for entry in entries:
                    if entry.id == id:
                        entries.remove(entry)
                        heapq.heapify(self._waiting)
                        return entry
            return None

    def tell(self, id: str, word: Tidings) -> None:
        """Whoever follows it, if it is under way."""
        with self._changed:
            if (entry := self._running.get(id)) is not None:
                entry.tidings.put(word)

    def close(self) -> None:
        """Give out no more, and stop those that are under way."""
        with self._changed:
            self._is_closed = True
            for entry in self._running.values():
                entry.tidings.put(Tidings.STOP)
            self._changed.notify_all()

    def _end_pauses(self) -> float | None:
        """Seconds until the next one ends."""
        now = time.monotonic()
        for entry in [one for one in self._paused if one.not_before <= now]:
            self._paused.remove(entry)
            heapq.heappush(self._waiting, entry)
            self._make_room()
        return min((one.not_before - now for one in self._paused), default=None)

    def _make_room(self) -> None:
        """As many as are more urgent and have no room get it."""
        staying = sorted(one for one in self._running.values() if not one.makes_way)
        num_coming = self._most - len(staying)
        for entry in sorted(self._waiting)[max(0, num_coming) :]:
            if not staying or staying[-1] < entry:
                return
            last = staying.pop()
            last.makes_way = True
            last.tidings.put(Tidings.MAKE_WAY)
