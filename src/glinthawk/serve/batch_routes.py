"""/v1/batches."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from glinthawk.serve.batch_checks import read_new_batch
from glinthawk.serve.batch_desk import BatchDesk
from glinthawk.serve.file_routes import list_answer
from glinthawk.serve.http_bodies import JsonAnswer, owner_of, read_json, read_number

__all__ = ["BatchRoutes"]

_MOST_BYTES = 1 << 17
_LISTED, _MOST_LISTED = 20, 100


class BatchRoutes:
    """The desk, by HTTP."""

    def __init__(self, desk: BatchDesk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """For the app."""
        one = "/v1/batches/{id}"
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.list, methods=["GET"]),
            Route(one, self.retrieve, methods=["GET"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        asked = read_new_batch(await read_json(request, _MOST_BYTES))
        batch = await run_in_threadpool(self._desk.create, owner_of(request), asked)
        return JsonAnswer(batch)

    def list(self, request: Request) -> Response:
        limit = read_number(request, "limit", _LISTED, _MOST_LISTED)
        after = request.query_params.get("after")
        return list_answer(self._desk.list(owner_of(request), after=after, limit=limit))

    def retrieve(self, request: Request) -> Response:
        return JsonAnswer(self._desk.find(owner_of(request), request.path_params["id"]))

    def cancel(self, request: Request) -> Response:
        return JsonAnswer(self._desk.cancel(owner_of(request), request.path_params["id"]))
