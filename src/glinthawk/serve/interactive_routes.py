"""What is asked and answered in one call, and /v1/models."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from glinthawk.jobs.line_envelope import ENDPOINTS, Kind, read_kind
from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.http_bodies import JsonAnswer, read_limited
from glinthawk.serve.interactive import Interactive, InteractiveTask
from glinthawk.serve.served_model import ServedModel

__all__ = ["InteractiveRoutes"]


class InteractiveRoutes:
    """``model`` is the one that there is."""

    def __init__(self, interactive: Interactive, model: ServedModel, most_bytes: int) -> None:
        self._interactive, self._most_bytes = interactive, most_bytes
        own = {
            "id": model.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "glinthawk",
            "max_model_len": model.limits.max_model_len,
        }
        #: An adapter stands for a model of its name.
        self._models = {model.name: own} | {
            name: {**own, "id": name, "parent": model.name} for name in model.adapters
        }

    def routes(self) -> list[Route]:
        """For the app."""
        asking = [
            Route(path, self._endpoint(read_kind({"url": path})), methods=["POST"])
            for path in ENDPOINTS
        ]
        models = [Route("/v1/models", self.models), Route("/v1/models/{id:path}", self.model)]
        return [*asking, *models]

    def models(self, _request: Request) -> Response:
        return JsonAnswer({"object": "list", "data": [*self._models.values()]})

    def model(self, request: Request) -> Response:
        id = request.path_params["id"]
        if id not in self._models:
            raise ApiError(
                404, f"there is no model {id!r:.80}", param="model", code="model_not_found"
            )
        return JsonAnswer(self._models[id])

    def _endpoint(self, kind: Kind) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            raw = await read_limited(request, self._most_bytes, "--max-body-size")
            asked = await self._interactive.read(kind, raw)
            if asked.is_streamed:
                events = self._interactive.stream(asked)
                return StreamingResponse(events, media_type="text/event-stream")
            return JsonAnswer(await self._while_there(request, asked))

        return answer

    async def _while_there(self, request: Request, asked: InteractiveTask) -> dict[str, Any]:
        """The answer. Raises ClientDisconnect if nobody waits for it any more."""
        answering = asyncio.current_task()
        assert answering is not None
        is_gone = False

        async def leave() -> None:
            nonlocal is_gone
            await _gone(request)
            is_gone = answering.cancel()

        leaving = asyncio.ensure_future(leave())
        try:
            return await self._interactive.answer(asked)
        except asyncio.CancelledError:
            if not is_gone:
                raise
            answering.uncancel()
            raise ClientDisconnect from None
        finally:
            leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
