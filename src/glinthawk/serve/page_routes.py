"""The page that shows a run while it goes on, and the events that it reads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from glinthawk.engine.run import Run
from glinthawk.engine.run_reading import read_run
from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.page_assets import asset_routes
from glinthawk.serve.page_feed import PageFeed, Seen, event
from glinthawk.serve.page_jobs import PageJob
from glinthawk.telemetry.live_view import LiveView, looking_on

__all__ = ["open_page"]

#: Between two events, and between two looks at whether the server ends.
_EVERY_S, _LOOK_S = 1.0, 0.25


@contextmanager
def open_page(
    run: Run,
    title: str,
    kind: str,
    rows: Callable[[str], list[PageJob]],
    is_ending: Callable[[], bool],
) -> Iterator[list[Route]]:
    """Its routes, for an app. Streams end when ``is_ending``: a server waits for answers that are
    under way. ``rows`` are the jobs that the owner of a key may see."""
    view = LiveView()
    with looking_on(view, lambda: read_run(run)):
        yield [_events_route(PageFeed(title, kind, view, rows), is_ending), *asset_routes()]


def _events_route(feed: PageFeed, is_ending: Callable[[], bool]) -> Route:
    async def events(request: Request) -> Response:
        # Where there are keys, the gate has looked for one.
        owner = request.scope.get("glinthawk.owner", "")
        if owner is None:
            raise ApiError(401, "give a key of this server", code="invalid_api_key")
        return StreamingResponse(
            _tell(feed, owner, is_ending),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return Route("/page/events", events)


async def _tell(feed: PageFeed, owner: str, is_ending: Callable[[], bool]) -> AsyncIterator[bytes]:
    seen = Seen()
    while not is_ending():
        yield await run_in_threadpool(feed.tell, owner, seen)
        for _ in range(round(_EVERY_S / _LOOK_S)):
            if not is_ending():
                await asyncio.sleep(_LOOK_S)
    yield await run_in_threadpool(feed.tell, owner, seen)
    yield event("end", {})
