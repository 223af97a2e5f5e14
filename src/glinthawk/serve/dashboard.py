"""The live page of one run, for as long as that lasts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from glinthawk.engine.run import Run
from glinthawk.jobs.job import Progress
from glinthawk.serve.api_errors import HANDLERS
from glinthawk.serve.http_server import Place
from glinthawk.serve.page_jobs import RunRow
from glinthawk.serve.page_routes import open_page

__all__ = ["open_dashboard"]

#: How long whoever reads the page may hold up the end of the run.
_GRACE_S = 2


@contextmanager
def open_dashboard(
    host: str, port: int, title: str, job: str, run: Run, ask: Callable[[], Progress]
) -> Iterator[str]:
    """Yields its address. All is done by threads of its own, which read what the run counts anyway.
    ``ask`` says how far the ``job`` is. Raises UsageError where nobody may listen."""
    place, ending = Place(host=host, port=port), threading.Event()
    page = open_page(run, title, "run", RunRow(job, ask), ending.is_set)
    with place.bind() as bound, page as routes:
        server = _server(routes)
        bound.listen()
        thread = threading.Thread(target=server.run, args=([bound],), name="glinthawk-page")
        thread.start()
        try:
            yield place.url(bound)
        finally:
            ending.set()
            server.should_exit = True
            thread.join()


def _server(routes: list[Route]) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[*routes], exception_handlers=HANDLERS),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
