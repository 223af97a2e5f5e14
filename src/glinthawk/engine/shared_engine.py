"""One engine for several askers: jobs, conversations, whoever comes while others are answered."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from glinthawk.core.errors import UsageError
from glinthawk.core.sequence import Request, Sequence
from glinthawk.engine.run import Run

__all__ = ["URGENT", "Asker", "SharedEngine"]

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

#: Who asks with this priority, or a smaller number, is not made to wait for others' requests that
#: were read ahead of need.
URGENT = 0
#: Of the requests that may be read ahead, those that are kept free for the urgent ones.
_FREE_AHEAD = 0.25
#: Requests that are read between two steps: a job's text work must not hold up what runs.
_MOST_READ = 64


class Asker(Protocol):
    """Who wants answers. Called on the engine's thread alone; what it raises ends it alone."""

    def requests(self) -> Iterator[Request | None]:
        """What it asks, read as needed. None: nothing at hand while its others are answered."""
        ...

    def stop_found(self, sequence: Sequence, token: int) -> bool:
        """Whether the text of ``sequence`` with ``token`` after it has a stop string."""
        ...

    def take(self, sequence: Sequence) -> None:
        """A sequence that has finished; one that is streamed, after each of its steps too."""
        ...

    def tick(self) -> None:
        """Some time has passed."""
        ...

    def end(self, error: Exception | None) -> None:
        """All that it asked is answered; or not, because of ``error``. Not called for who is
        withdrawn, and for nobody twice."""
        ...


@dataclass(eq=False, slots=True)
class _Open:
    """An asker with requests to come or under way."""

    asker: Asker
    number: int
    priority: int
    requests: Iterator[Request | None]
    #: Sequences that have not finished.
    num_open: int = 0
    #: Whether there are no more requests.
    is_read: bool = False


class SharedEngine:
    """A run on a thread of its own, for any number of askers.

    Those of smaller priority numbers are read, and admitted, first; those of equal ones in turn.
    ``opening`` is entered and left on that thread; raises what that raises.

    >>> # with SharedEngine(open_run(config)) as engine:
    >>> #     number = engine.ask(asker, priority=URGENT)
    """

    def __init__(self, opening: AbstractContextManager[Run]) -> None:
        self._opening = opening
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._open: dict[int, _Open] = {}
        #: Those with requests to come, by priority; of one priority, the next in turn first.
        self._unread: dict[int, deque[_Open]] = {}
        self._num_asked = 0
        #: Requests since the last step.
        self._num_read = 0
        self._lock = threading.Lock()
        self._is_closing = False
        self._failure: Exception | None = None
        self._opened: Future[Run] = Future()
        self._thread = threading.Thread(target=self._work, name="glinthawk-engine", daemon=True)
        self._thread.start()
        self.run = self._opened.result()

    def __enter__(self) -> "SharedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def failure(self) -> Exception | None:
        """What has ended the run, and with it all who asked."""
        return self._failure

    def ask(self, asker: Asker, priority: int = URGENT) -> int:
        """Begin to answer ``asker``; returns its number. From any thread.

        Raises what has ended the run, and UsageError after ``close``.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            number, self._num_asked = self._num_asked, self._num_asked + 1
            self._calls.put(lambda: self._admit(asker, number, priority))
        return number

    def withdraw(self, number: int) -> None:
        """Answer an asker no more. From any thread; on another than the engine's, the asker may
        hear something for a moment yet."""
        self._calls.put(lambda: self._drop(number))

    def close(self) -> None:
        """Give up what is under way; who still asks is told so by an error."""
        self._is_closing = True
        self._calls.put(lambda: None)
        self._thread.join()

    # -- on the engine's thread --------------------------------------------------------------------

    def _work(self) -> None:
        failure: Exception = UsageError("this engine is closed")
        try:
            with self._opening as run:
                self._opened.set_result(run)
                for sequence in run.engine.generate(
                    self._requests(run), self._stop_found, self._after_step
                ):
                    self._give(sequence)
        except Exception as error:
            failure = error
        self._fail(failure)
        if not self._opened.done():
            self._opened.set_exception(failure)

    def _requests(self, run: Run) -> Iterator[Request | None]:
        """Whatever anybody asks; waits where nothing is left to do."""
        while not self._is_closing:
            self._hear()
            request = None
            if self._num_read < _MOST_READ:
                request = self._next(run.engine.room_ahead)
            if request is not None or not run.engine.scheduler.is_idle:
                yield request
            elif self._num_read >= _MOST_READ:
                yield None
            elif not any(self._unread.values()):
                self._calls.get()()

    def _next(self, room_ahead: float) -> Request | None:
        for priority in sorted(self._unread):
            if priority > URGENT and room_ahead < _FREE_AHEAD:
                break
            in_turn = self._unread[priority]
            for _ in range(len(in_turn)):
                request = self._read(in_turn)
                if request is not None:
                    return request
            if not in_turn:
                del self._unread[priority]
        return None

    def _read(self, in_turn: "deque[_Open]") -> Request | None:
        """The next request of the first, who is then the last."""
        one = in_turn.popleft()
        if one.number not in self._open:
            return None
        try:
            request = next(one.requests)
        except StopIteration:
            one.is_read = True
            self._check_end(one)
            return None
        except Exception as error:
            self._end(one, error)
            return None
        in_turn.append(one)
        if request is None:
            return None
        one.num_open += 1
        self._num_read += 1
        return replace(request, asker=one.number, priority=one.priority)

    def _hear(self) -> None:
        """Carry out what other threads have asked for."""
        with suppress(Empty):
            while True:
                self._calls.get_nowait()()

    def _after_step(self) -> None:
        self._hear()
        self._num_read = 0
        for one in list(self._open.values()):
            if self._is_closing:
                self._end(one, UsageError("the engine was closed"))
            else:
                self._tell(one, one.asker.tick)

    def _admit(self, asker: Asker, number: int, priority: int) -> None:
        one = _Open(asker, number, priority, _begin(asker))
        self._open[number] = one
        self._unread.setdefault(priority, deque()).append(one)

    def _stop_found(self, sequence: Sequence, token: int) -> bool:
        one = self._open.get(sequence.request.asker)
        return one is not None and bool(self._tell(one, one.asker.stop_found, sequence, token))

    def _give(self, sequence: Sequence) -> None:
        one = self._open.get(sequence.request.asker)
        if one is not None:
            one.num_open -= sequence.finish_reason is not None
            self._tell(one, one.asker.take, sequence)
            self._check_end(one)

    def _tell(self, one: _Open, call: Callable[..., _T], *what: object) -> _T | None:
        """``call`` of the asker; an error ends it, and nobody else."""
        try:
            return call(*what)
        except Exception as error:
            self._end(one, error)
            return None

    def _check_end(self, one: _Open) -> None:
        if one.is_read and not one.num_open:
            self._end(one, None)

    def _end(self, one: _Open, error: Exception | None) -> None:
        if self._drop(one.number):
            try:
                one.asker.end(error)
            except Exception:
                _logger.exception("an asker failed when it was told of its end")

    def _drop(self, number: int) -> bool:
        """Forget an asker, if it is there, and what it has under way."""
        one = self._open.pop(number, None)
        if one is not None and one.num_open:
            self.run.engine.withdraw(lambda request: request.asker == number)
        return one is not None

    def _fail(self, error: Exception) -> None:
        """The run is over, for all who ask and who come later."""
        with self._lock:
            self._failure = error
        for one in self._open.values():
            one.num_open = 0  # nothing is under way any more
        self._hear()
        for one in list(self._open.values()):
            self._end(one, error)


def _begin(asker: Asker) -> Iterator[Request | None]:
    """Its requests; an error of the first call comes with the first request."""
    yield from asker.requests()
