"""The server's paths, and what stands before all of them: keys and counts."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
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

#: What is taken in of a call that is refused.
_DRAIN_S, _DRAIN_BYTES = 10, 1 << 26

#: What clients send whose base URL is without the version, or of another one.
_HEADS = (
    *("files", "batches", "models", "chat", "completions", "responses", "embeddings", "score"),
    "rerank",
)
_PATH = re.compile(rf"(?:/v[12])*(/(?:{'|'.join(_HEADS)})(?:/.*)?)", re.DOTALL)

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

        if found := _PATH.fullmatch(scope["path"]):
            scope = {**scope, "path": f"/v1{found[1]}"}
        call = _Call(receive)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count_call(message["status"])
                if message["status"] >= HTTPStatus.BAD_REQUEST:
                    await call.drain()
            await send(message)

        owner = self._keys.owner_of(_authorization(scope))
        if owner is None and scope["path"].startswith("/v1"):
            body = error_body(401, "give a key of this server", None, "invalid_api_key")
            answer = JsonAnswer(body, 401, {"WWW-Authenticate": "Bearer"})
            await answer(scope, call.receive, counted)
            return
        scope["glinthawk.owner"] = owner
        await self._app(scope, call.receive, counted)


class _Call:
    """The body of a call as it comes in."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = False

    async def receive(self) -> Message:
        """As the server gives it."""
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Take in what still comes, so that a client that is sending reads why it is refused; not
        for long."""
        num_bytes = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not self._is_read and num_bytes < _DRAIN_BYTES:
                    num_bytes += len((await self.receive()).get("body", b""))


def _authorization(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    return given[0].decode("latin-1") if given else None
