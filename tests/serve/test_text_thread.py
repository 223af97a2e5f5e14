"""The thread for text: order, errors, callers that go away, and one waking for many."""

import asyncio
import threading
from contextlib import closing
from unittest.mock import patch

from glinthawk.serve.text_thread import TextThread


def _fail() -> None:
    raise ValueError("broken")


def test_work_is_done_in_order_and_errors_are_their_callers() -> None:
    done: list[int] = []

    async def ask(thread: TextThread) -> list[object]:
        works = [thread.do(lambda number=number: done.append(number)) for number in range(40)]
        return await asyncio.gather(
            *works, thread.do(_fail), thread.do(lambda: "well"), return_exceptions=True
        )

    with closing(TextThread()) as thread:
        *nothing, error, well = asyncio.run(ask(thread))
    assert done == [*range(40)] and nothing == [None] * 40
    assert isinstance(error, ValueError) and well == "well"


def test_work_of_who_has_gone_is_left_out() -> None:
    done: list[str] = []
    may_go_on = threading.Event()

    async def ask(thread: TextThread) -> None:
        slow = asyncio.ensure_future(thread.do(may_go_on.wait))
        gone = asyncio.ensure_future(thread.do(lambda: done.append("gone")))
        stays = asyncio.ensure_future(thread.do(lambda: done.append("stays")))
        await asyncio.sleep(0)  # all are handed in
        slow.cancel()
        gone.cancel()
        await asyncio.sleep(0)
        may_go_on.set()
        await stays

    with closing(TextThread()) as thread:
        asyncio.run(ask(thread))
    assert done == ["stays"]


def test_what_waits_together_is_told_together() -> None:
    may_go_on = threading.Event()

    async def ask(thread: TextThread) -> int:
        loop = asyncio.get_running_loop()
        works = [asyncio.ensure_future(thread.do(may_go_on.wait)) for _ in range(10)]
        await asyncio.sleep(0)  # all are handed in
        with patch.object(loop, "call_soon_threadsafe", wraps=loop.call_soon_threadsafe) as woken:
            may_go_on.set()
            await asyncio.gather(*works)
        return woken.call_count

    with closing(TextThread()) as thread:
        assert asyncio.run(ask(thread)) == 1
