"""Requests as a shared engine meets them whose answers are awaited on an event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as TokenSequence

__all__ = ["AwaitingAsker"]


def _pass(_sequence: TokenSequence) -> None:
    """Nothing to see."""


class AwaitingAsker:
    """Made on the event loop, where ``steps`` and ``abort`` are called; the rest is called on the
    engine's thread, and so are ``stop_found`` and ``check``, which sees each sequence that has
    finished: what it raises ends all of them."""

    def __init__(
        self,
        requests: Sequence[Request],
        stop_found: Callable[[TokenSequence, int], bool],
        check: Callable[[TokenSequence], None] = _pass,
    ) -> None:
        self._requests, self._stop_found, self._check = requests, stop_found, check
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        #: Not looked at yet, by request: the newest of each.
        self._newest: dict[int, TokenSequence] = {}
        #: Whether the loop is going to look, and need not be woken up once more.
        self._is_called = False
        self._lock = threading.Lock()
        self._is_over = False
        self._error: Exception | None = None

    async def steps(self) -> AsyncIterator[list[TokenSequence]]:
        """Sequences that have grown, or finished, since the last time: all at once, for who is slow
        sees fewer steps. Raises what has ended the engine's work."""
        while not self._is_over or self._newest:
            await self._changed.wait()
            self._changed.clear()
            with self._lock:
                newest, self._newest, self._is_called = self._newest, {}, False
            if newest:
                yield list(newest.values())
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Nothing more will come."""
        self._finish(None)

    def requests(self) -> Iterator[Request | None]:
        yield from self._requests

    def stop_found(self, sequence: TokenSequence, token: int) -> bool:
        return self._stop_found(sequence, token)

    def take(self, sequence: TokenSequence) -> None:
        if sequence.finish_reason is not None:
            self._check(sequence)
        elif sequence.output:
            # It goes on growing here, while it is read there.
            tokens, logprobs = list(sequence.output), list(sequence.logprobs)
            sequence = TokenSequence(sequence.request, output=tokens, logprobs=logprobs)
        else:
            return  # a part of its prompt was computed
        with self._lock:
            self._newest[sequence.request.id] = sequence
            self._call()

    def tick(self) -> None:
        """Nothing waits here."""

    def end(self, error: Exception | None) -> None:
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        with self._lock:
            self._is_over, self._error = True, error
            self._call()

    def _call(self) -> None:
        """Waking a loop costs more than most steps of the engine do for one sequence."""
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._changed.set)
