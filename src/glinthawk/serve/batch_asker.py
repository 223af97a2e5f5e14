"""A batch as the engine meets it: a job that is told its end."""

import threading
from collections.abc import Callable, Iterator

from glinthawk.core.sequence import Request, Sequence
from glinthawk.jobs.job import Job

__all__ = ["BatchAsker"]


class BatchAsker:
    """Called on the engine's thread, until ``close`` has come back. ``on_end`` is told the error
    that has ended it, or None when all is answered; ``count`` sees every answer."""

    def __init__(
        self,
        job: Job,
        on_end: Callable[[Exception | None], None],
        count: Callable[[Sequence], None],
    ) -> None:
        self._job, self._on_end, self._count = job, on_end, count
        self._lock = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """From now on the job belongs to the caller."""
        with self._lock:
            self._is_closed = True

    def requests(self) -> Iterator[Request | None]:
        """Those of the job."""
        requests = self._job.requests()
        while True:
            with self._lock:
                if self._is_closed:
                    return
                try:
                    request = next(requests)
                except StopIteration:
                    return
            yield request

    def stop_found(self, sequence: Sequence, token: int) -> bool:
        return self._job.stop_found(sequence, token)

    def take(self, sequence: Sequence) -> None:
        with self._lock:
            if not self._is_closed:
                self._job.finish(sequence)
                self._count(sequence)

    def tick(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._job.tick()

    def end(self, error: Exception | None) -> None:
        self._on_end(error)
