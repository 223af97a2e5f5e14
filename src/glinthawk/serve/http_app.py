"""The server's paths, and what stands before all of them: keys and counts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glinthawk.serve.api_errors import HANDLERS, error_body
from glinthawk.serve.api_keys import ApiKeys
from glinthawk.serve.http_bodies import JsonAnswer
from glinthawk.serve.server_metrics import CONTENT_TYPE, ServerMetrics

__all__ = ["make_app"]

_Background = Callable[[], Any]


def make_app(
    routes: list[BaseRoute], keys: ApiKeys, metrics: ServerMetrics, background: _Background
) -> Starlette:
    """``background`` is an asynchronous context that lasts as long as the server."""

    async def health(_request: Any) -> Response:
        return Response()

    async def show_metrics(_request: Any) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with background():
            yield

    return Starlette(
        routes=[Route("/health", health), Route("/metrics", show_metrics), *routes],
        middleware=[Middleware(_Gate, keys=keys, metrics=metrics)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )


class _Gate:
    """Lets calls below /v1 through that have a key, and counts every answer."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, metrics: ServerMetrics) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_call(message["status"])
            await send(message)

        owner = self._keys.owner_of(_authorization(scope))
        if owner is None and scope["path"].startswith("/v1"):
            body = error_body(401, "give a key of this server", None, "invalid_api_key")
            answer = JsonAnswer(body, 401, {"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, counted)
            return
        scope["glinthawk.owner"] = owner
        await self._app(scope, receive, counted)


def _authorization(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    return given[0].decode("latin-1") if given else None
