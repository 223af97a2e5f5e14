"""A thread beside an event loop for work that would keep the loop's other callers waiting."""

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["TextThread"]

_T = TypeVar("_T")
#: What is done, and who waits for it.
_Item = tuple[Callable[[], Any], "asyncio.Future[Any]"]
_Done = tuple["asyncio.Future[Any]", Any, BaseException | None]


class TextThread:
    """Does work in the order that it came in. All that waits is done before the loop is woken up,
    once: under load, waking one another costs two threads more than the work does."""

    #: Of one time, so that whoever was first is not kept for long.
    _MOST = 16

    def __init__(self) -> None:
        self._waiting: SimpleQueue[_Item | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="text", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave what has not begun, and end."""
        while self._take_now() is not None:
            pass
        self._waiting.put(None)
        self._thread.join()

    async def do(self, work: Callable[[], _T]) -> _T:
        """What ``work`` returns, or raises."""
        result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting.put((work, result))
        return await result

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            loop, done = item[1].get_loop(), [_did(*item)]
            while len(done) < self._MOST and (more := self._take_now()) is not None:
                done.append(_did(*more))
            try:
                loop.call_soon_threadsafe(_tell, done)
            except RuntimeError:
                return  # the loop is closed: nobody waits

    def _take_now(self) -> _Item | None:
        try:
            item = self._waiting.get_nowait()
        except Empty:
            return None
        if item is None:
            self._waiting.put(None)
        return item


def _did(work: Callable[[], Any], result: "asyncio.Future[Any]") -> _Done:
    if result.cancelled():
        return result, None, None
    try:
        return result, work(), None
    except BaseException as error:
        return result, None, error


def _tell(done: list[_Done]) -> None:
    for result, value, error in done:
        if result.done():
            continue  # whoever asked has gone
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)
