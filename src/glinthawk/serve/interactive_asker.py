"""An interactive request as the engine meets it; its answer is awaited on the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from glinthawk.core.limits import Limits
from glinthawk.core.sequence import Request
from glinthawk.core.sequence import Sequence as TokenSequence
from glinthawk.jobs.text import Text

__all__ = ["InteractiveAsker"]


class InteractiveAsker:
    """Made on the event loop; everything but ``answers`` is called on the engine's thread, and so
    is ``text``. Requests are numbered from 0: theirs are the choices."""

    def __init__(
        self,
        requests: Sequence[Request],
        text: Text,
        limits: Limits,
        count: Callable[[TokenSequence], None],
    ) -> None:
        self._requests, self._text, self._limits, self._count = requests, text, limits, count
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        #: By choice, what has not been looked at yet: no more than the newest of each.
        self._newest: dict[int, TokenSequence] = {}
        self._is_over = False
        self._error: Exception | None = None

    async def answers(self) -> AsyncIterator[TokenSequence]:
        """Choices as they grow and, with a finish_reason, whole; steps may be left out. Raises what
        has ended the engine's work."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            newest, self._newest = self._newest, {}
            for sequence in newest.values():
                yield sequence
            if self._error is not None:
                raise self._error
            if self._is_over and not self._newest:
                return

    def requests(self) -> Iterator[Request | None]:
        yield from self._requests

    def stop_found(self, sequence: TokenSequence, token: int) -> bool:
        request = sequence.request
        return self._text.find_stop(request.prompt, [*sequence.output, token], request.params)

    def take(self, sequence: TokenSequence) -> None:
        if sequence.finish_reason is None:
            # It goes on growing here while it is read there.
            output, logprobs = list(sequence.output), list(sequence.logprobs)
            sequence = TokenSequence(sequence.request, output=output, logprobs=logprobs)
        else:
            self._limits.check_answer(sequence)
            self._count(sequence)
        self._loop.call_soon_threadsafe(self._put, sequence)

    def tick(self) -> None:
        """Nothing waits here."""

    def end(self, error: Exception | None) -> None:
        self._loop.call_soon_threadsafe(self._put_end, error)

    def _put(self, sequence: TokenSequence) -> None:
        self._newest[sequence.request.id] = sequence
        self._changed.set()

    def _put_end(self, error: Exception | None) -> None:
        self._is_over, self._error = True, error
        self._changed.set()
