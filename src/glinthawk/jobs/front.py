"""The front of a run: text work beside Tier 1's thread, as far as there are processes for it.

Work is handed out in parcels. Each process has a thread here that waits for it, so processes go on
while Tier 1's thread is in a step. Nobody ever waits for a process: a parcel that is needed and not
back yet, or whose process has died, is done here.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

from glinthawk.jobs.lines import Refusal, Task
from glinthawk.jobs.text import Text
from glinthawk.jobs.text_process import TextProcess
from glinthawk.jobs.text_work import TextRules, Work, work_on

__all__ = ["Front", "Parcel", "TextProcesses", "choose_processes"]

_Done = list[Task | Refusal | bytes]

#: A job of fewer lines is over before processes have paid for their start.
_FEWEST_LINES = 2_000
#: Cores for each process, and processes at most: one reads some 7,000 short lines a second.
_CORES_EACH, _MOST = 4, 4


def choose_processes(num_lines: int) -> int:
    """How many processes pay for a job of ``num_lines`` on the cores that this process may use."""
    if num_lines < _FEWEST_LINES:
        return 0
    return min(_MOST, len(os.sched_getaffinity(0)) // _CORES_EACH)


class TextProcesses:
    """Processes that wait for work; made and ended by ``begun``."""

    def __init__(self, processes: list[TextProcess]) -> None:
        self._all = processes
        self._idle: SimpleQueue[TextProcess] = SimpleQueue()
        # As many threads as processes: one that has work finds an idle process.
        self._threads = ThreadPoolExecutor(max(1, len(processes)), "front")

    @classmethod
    @contextmanager
    def begun(cls, count: int, load: Callable[[], Text]) -> "Iterator[TextProcesses]":
        """Fork ``count`` of them, while this process has no other thread. They end with the
        block."""
        processes: list[TextProcess] = []
        try:
            for _ in range(count):
                processes.append(TextProcess(load))
            pool = cls(processes)
            yield pool
        finally:
            for process in processes:
                process.kill()
            if processes:
                pool._threads.shutdown(cancel_futures=True)
            for process in processes:
                process.close()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._all]

    @property
    def num_alive(self) -> int:
        return sum(process.is_alive for process in self._all)

    def tell(self, rules: TextRules) -> None:
        """What work depends on; once, before all work. Comes back at once."""
        for process in self._all:
            self._threads.submit(self._prepare, process, rules)

    def hand(self, work: Work) -> "Future[_Done | None]":
        """Have ``work`` done; None where its process has died."""
        return self._threads.submit(self._do, work)

    def _prepare(self, process: TextProcess, rules: TextRules) -> None:
        process.tell(rules)
        self._idle.put(process)

    def _do(self, work: Work) -> _Done | None:
        process = self._idle.get()
        try:
            return process.do(work)
        finally:
            self._idle.put(process)


class Parcel:
    """Work, and where it is done."""

    def __init__(
        self, work: Work, here: Callable[[Work], _Done], away: "Future[_Done | None] | None"
    ) -> None:
        self._work, self._here, self._away = work, here, away

    @property
    def is_back(self) -> bool:
        """Whether ``open`` costs nothing, or there is nobody else to do the work."""
        return self._away is None or self._away.done()

    def open(self) -> _Done:
        """What came of the work; if it is not back, it is done here."""
        if self._away is not None and (self._away.done() or not self._away.cancel()):
            done = self._away.result() if self._away.done() else None
            if done is not None:
                return done
        return self._here(self._work)


class Front:
    """Hands out parcels; without ``processes``, all work is done here."""

    def __init__(
        self, text: Text, rules: TextRules, processes: TextProcesses | None = None
    ) -> None:
        #: Does work here and now.
        self.do = work_on(text, rules)
        self._processes = processes
        if processes is not None:
            processes.tell(rules)

    @property
    def is_parallel(self) -> bool:
        """Whether someone else works."""
        return self._processes is not None and self._processes.num_alive > 0

    def hand(self, work: Work) -> Parcel:
        """Have ``work`` done."""
        is_away = self._processes is not None and self.is_parallel
        away = self._processes.hand(work) if is_away and self._processes is not None else None
        return Parcel(work, self.do, away)
