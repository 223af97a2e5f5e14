"""A server from its data folder to its socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.engine.run import open_run
from glinthawk.engine.shared_engine import SharedEngine
from glinthawk.jobs.line_rules import LineRules
from glinthawk.serve.api_keys import ApiKeys
from glinthawk.serve.batch_checks import LineLimits
from glinthawk.serve.batch_desk import BatchDesk
from glinthawk.serve.batch_life import BatchLife
from glinthawk.serve.batch_routes import BatchRoutes
from glinthawk.serve.data_folder import DataFolder
from glinthawk.serve.engine_gauges import read_gauges
from glinthawk.serve.file_routes import FileRoutes
from glinthawk.serve.http_app import make_app
from glinthawk.serve.interactive import Interactive
from glinthawk.serve.interactive_routes import InteractiveRoutes
from glinthawk.serve.page_jobs import BatchRows
from glinthawk.serve.page_routes import open_page
from glinthawk.serve.record_store import RecordStore
from glinthawk.serve.served_model import ServedModel
from glinthawk.serve.server_metrics import ServerMetrics

__all__ = ["HttpServer", "Place", "ServerLimits", "open_server"]

#: How long calls that are under way may take when the server ends, and how often it is looked
#: whether the engine still lives.
_GRACE_S, _WATCH_S = 30, 0.5
_BACKLOG = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server listens. Both files or none: TLS."""

    host: str
    port: int
    ssl_keyfile: Path | None = None
    ssl_certfile: Path | None = None

    def bind(self) -> socket.socket:
        """Raises UsageError."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self.host, self.port))
        except (OSError, OverflowError, UnicodeError) as error:
            bound.close()
            raise UsageError(
                f"cannot listen on {self.host}:{self.port}: {error}; give another --host or --port"
            ) from error
        return bound

    def url(self, bound: socket.socket) -> str:
        """How clients reach it."""
        scheme = "https" if self.ssl_certfile else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{bound.getsockname()[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bytes of a file and of a body at most, and lines of a batch."""

    most_file_bytes: int
    most_body_bytes: int
    most_lines: int


class HttpServer:
    """Serves until it is told to end, or the engine has failed."""

    def __init__(self, engine: SharedEngine, place: Place, bound: socket.socket) -> None:
        self._engine, self._place, self._bound = engine, place, bound
        self._uvicorn: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return self._place.url(self._bound)

    def is_ending(self) -> bool:
        """Whether it has been told to end."""
        return self._uvicorn is not None and self._uvicorn.should_exit

    def serve(self, app: Any) -> None:
        """Comes back after SIGINT or SIGTERM by raising KeyboardInterrupt, if that is what they do;
        raises what has ended the engine."""
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_keyfile=self._place.ssl_keyfile,
            ssl_certfile=self._place.ssl_certfile,
            timeout_graceful_shutdown=_GRACE_S,
        )
        self._uvicorn = uvicorn.Server(config)
        self._uvicorn.run(sockets=[self._bound])
        if self._engine.failure is not None:
            raise self._engine.failure

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """End with the engine."""

        async def watch() -> None:
            while self._engine.failure is None:
                await asyncio.sleep(_WATCH_S)
            assert self._uvicorn is not None
            self._uvicorn.should_exit = True

        task = asyncio.ensure_future(watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@contextmanager
def open_server(
    config: EngineConfig,
    rules: LineRules,
    fingerprint: Mapping[str, Any],
    data: Path,
    place: Place,
    keys: ApiKeys,
    limits: ServerLimits,
) -> Iterator[tuple[str, Any]]:
    """Everything but the waiting: yields the address, and what serves when it is called.

    Raises UsageError, WorkerError.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(closing(DataFolder(data)))
        bound = stack.enter_context(place.bind())
        store = stack.enter_context(closing(RecordStore(folder.records)))
        folder.sweep(store.file_ids(), {batch.id for _, batch in store.open_batches()})
        engine = stack.enter_context(SharedEngine(open_run(config)))
        run = engine.run
        model = ServedModel.load(config, rules, run.limits, run.resolved, fingerprint)
        metrics = ServerMetrics(model.name)
        lines = LineLimits(limits.most_lines, limits.most_body_bytes)
        life = BatchLife(folder, store, engine, model, lines, metrics)
        desk = BatchDesk(folder, store, life)
        stack.callback(desk.stop)
        interactive = stack.enter_context(closing(Interactive(model, engine, metrics)))
        server = HttpServer(engine, place, bound)
        routes = [
            *FileRoutes(folder, store, metrics, limits.most_file_bytes).routes(),
            *BatchRoutes(desk).routes(),
            *InteractiveRoutes(interactive, model, limits.most_body_bytes).routes(),
        ]
        num_pages = sum(home.num_pages for home in run.tier1.homes())
        metrics.watch(lambda: read_gauges(engine, num_pages, store))
        page = open_page(run, model.name, "server", BatchRows(desk, store), server.is_ending)
        routes += stack.enter_context(page)
        app = make_app(list(routes), keys, metrics, server.watching)
        desk.start()
        # Who calls from now on is heard, if a moment later.
        bound.listen(_BACKLOG)
        yield server.url, lambda: server.serve(app)
