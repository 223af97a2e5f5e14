"""/v1/files."""

import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.api_objects import FileObject
from glinthawk.serve.data_folder import DataFolder, new_id
from glinthawk.serve.http_bodies import JsonAnswer, owner_of, read_number
from glinthawk.serve.record_store import NoSuchRecord, Page, RecordStore
from glinthawk.serve.server_metrics import ServerMetrics
from glinthawk.serve.uploads import Upload, receive_upload

__all__ = ["FileRoutes", "list_answer"]

_MOST_LISTED = 10_000
_PURPOSES = ("batch", "user_data")
_LONGEST_NAME = 255


class FileRoutes:
    """What clients upload, and what batches leave for them."""

    def __init__(
        self, folder: DataFolder, store: RecordStore, metrics: ServerMetrics, most_bytes: int
    ) -> None:
        self._folder, self._store = folder, store
        self._metrics, self._most_bytes = metrics, most_bytes

    def routes(self) -> list[Route]:
        """For the app."""
        one = "/v1/files/{id}"
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.list, methods=["GET"]),
            Route(f"{one}/content", self.content, methods=["GET"]),
            Route(one, self.retrieve, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    async def upload(self, request: Request) -> Response:
        """What a client that goes away has sent is removed."""
        place = self._folder.new_upload()
        try:
            kind = request.headers.get("content-type", "")
            upload = await receive_upload(kind, request.stream(), place, self._most_bytes)
            file = _file(upload)
            await run_in_threadpool(self._folder.keep, place, file.id)
        finally:
            place.unlink(missing_ok=True)
        await run_in_threadpool(self._add, owner_of(request), file)
        self._metrics.count_upload(file.bytes)
        return JsonAnswer(file)

    def _add(self, owner: str, file: FileObject) -> None:
        try:
            self._store.add_file(owner, file)
        except BaseException:
            self._folder.delete_content(file.id)
            raise

    def list(self, request: Request) -> Response:
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, "order must be asc or desc", param="order")
        page = self._store.list_files(
            owner_of(request),
            after=request.query_params.get("after"),
            limit=read_number(request, "limit", _MOST_LISTED, _MOST_LISTED),
            purpose=request.query_params.get("purpose"),
            is_ascending=order == "asc",
        )
        return list_answer(page)

    def retrieve(self, request: Request) -> Response:
        return JsonAnswer(self._find(request))

    def content(self, request: Request) -> Response:
        file = self._find(request)
        place = self._folder.content(file.id)
        if not place.exists():
            raise NoSuchRecord(file.id)  # deleted just now
        kind = "application/octet-stream"
        return FileResponse(place, media_type=kind, filename=file.filename)

    def delete(self, request: Request) -> Response:
        """A batch that reads the file goes on."""
        id = request.path_params["id"]
        self._store.delete_file(owner_of(request), id)
        self._folder.delete_content(id)
        return JsonAnswer({"id": id, "object": "file", "deleted": True})

    def _find(self, request: Request) -> FileObject:
        return self._store.find_file(owner_of(request), request.path_params["id"])


def _file(upload: Upload) -> FileObject:
    """Raises ApiError for a form without what it needs."""
    purpose = upload.fields.get("purpose")
    if upload.filename is None:
        raise ApiError(400, "the form has no file", param="file")
    if purpose not in _PURPOSES:
        raise ApiError(400, f"purpose must be {' or '.join(_PURPOSES)}", param="purpose")
    for name in upload.fields:
        if name != "purpose":
            raise ApiError(400, f"{name} is not supported; leave it out", param=name)
    return FileObject(
        id=new_id("file-"),
        bytes=upload.num_bytes,
        created_at=int(time.time()),
        filename=upload.filename[-_LONGEST_NAME:] or "upload",
        purpose=purpose,
    )


def list_answer(page: Page) -> Response:
    """As the API has lists."""
    ids = [one.id for one in page.data]
    ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return JsonAnswer({"object": "list", "data": page.data, **ends, "has_more": page.has_more})
