"""A server as ``glinthawk serve`` is one, whose engine answers at once with the same tokens."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from queue import SimpleQueue
from typing import Any

from glinthawk.core.config import EngineConfig
from glinthawk.core.limits import Limits
from glinthawk.core.sequence import FinishReason, Sequence
from glinthawk.engine.shared_engine import Asker
from glinthawk.jobs.line_rules import LineRules
from glinthawk.serve.api_keys import ApiKeys
from glinthawk.serve.http_app import make_app
from glinthawk.serve.http_server import HttpServer, Place
from glinthawk.serve.interactive import Interactive
from glinthawk.serve.interactive_routes import InteractiveRoutes
from glinthawk.serve.served_model import ServedModel
from glinthawk.serve.server_metrics import ServerMetrics

__all__ = ["StubEngine", "serve_stub"]

_LENGTH, _VOCAB = 4096, 4096


class StubEngine:
    """Everybody who asks is answered at once, on a thread as an engine has one."""

    failure: Exception | None = None

    def __init__(self) -> None:
        self._askers: SimpleQueue[Asker | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._answer_all)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._askers.put(None)
        self._thread.join()

    def ask(self, asker: Asker, priority: int = 0) -> int:
        """As a shared engine's."""
        self._askers.put(asker)
        return priority

    def withdraw(self, number: int) -> None:
        """Nothing is left by then."""

    def _answer_all(self) -> None:
        while (asker := self._askers.get()) is not None:
            for request in asker.requests():
                if request is not None:
                    output = list(range(100, 100 + request.max_tokens))
                    ended = Sequence(request, output=output, finish_reason=FinishReason.LENGTH)
                    asker.take(ended)
            asker.end(None)


def serve_stub() -> None:
    """Says its port and event loop when it listens; until SIGTERM."""
    config, rules = EngineConfig(model="demo"), LineRules()
    limits = Limits(max_model_len=_LENGTH, kv_tokens=1 << 20, vocab_size=_VOCAB)
    model = ServedModel.load(config, rules, limits, {}, {})
    metrics = ServerMetrics(model.name)
    place = Place(host="127.0.0.1", port=0)
    engine: Any
    with (
        closing(StubEngine()) as engine,
        closing(Interactive(model, engine, metrics)) as interactive,
        place.bind() as bound,
    ):
        server = HttpServer(engine, place, bound)
        routes = InteractiveRoutes(interactive, model, 1 << 20).routes()

        @asynccontextmanager
        async def begun() -> AsyncIterator[None]:
            async with server.watching():
                loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
                sys.stdout.write(f"{bound.getsockname()[1]} {loop}\n")
                sys.stdout.flush()
                yield

        bound.listen(2048)
        server.serve(make_app(list(routes), ApiKeys(()), metrics, begun))


if __name__ == "__main__":
    serve_stub()
