"""The page that shows a run while it goes on, and the events that it reads."""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.page_assets import asset_routes
from glinthawk.serve.page_feed import PageFeed, Seen, event

__all__ = ["page_routes"]

#: Between two events, and between two looks at whether the server ends.
_EVERY_S, _LOOK_S = 1.0, 0.25


def page_routes(feed: PageFeed, is_ending: Callable[[], bool]) -> list[Route]:
    """For an app. Streams end when ``is_ending``: a server waits for answers that are under way."""

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

    return [Route("/page/events", events), *asset_routes()]


async def _tell(feed: PageFeed, owner: str, is_ending: Callable[[], bool]) -> AsyncIterator[bytes]:
    seen = Seen()
    while not is_ending():
        yield await run_in_threadpool(feed.tell, owner, seen)
        for _ in range(round(_EVERY_S / _LOOK_S)):
            if not is_ending():
                await asyncio.sleep(_LOOK_S)
    yield await run_in_threadpool(feed.tell, owner, seen)
    yield event("end", {})
