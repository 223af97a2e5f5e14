"""Files and batches of a running server, by HTTP. Knows bytes and ids, and nothing of a job."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from glinthawk.core.errors import ServerLost, UsageError

__all__ = ["BatchApi", "BatchError", "RemoteBatch", "RemoteModel"]

#: Seconds until a connection is given up, and an answer: a large upload is written to disk first.
_CONNECT_S, _ANSWER_S = 10.0, 600.0
_PAGE = 100
_OWNER = "glinthawk"
_T = TypeVar("_T")


class RemoteModel(msgspec.Struct, frozen=True):
    """What a server answers with."""

    id: str
    owned_by: str = ""
    max_model_len: int = 0


class BatchError(msgspec.Struct, frozen=True):
    """Why a batch was not begun; ``line`` counts from 1."""

    message: str
    line: int | None = None


class _Errors(msgspec.Struct, frozen=True):
    data: list[BatchError] = []


class _Counts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class RemoteBatch(msgspec.Struct, frozen=True):
    """A batch as a server shows it."""

    id: str
    status: str
    endpoint: str
    input_file_id: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    request_counts: _Counts = _Counts()
    metadata: dict[str, str] | None = None

    @property
    def num_done(self) -> int:
        """Lines with an answer or an error."""
        return self.request_counts.completed + self.request_counts.failed

    @property
    def has_ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")

    @property
    def file_ids(self) -> list[str]:
        """Of its results."""
        return [id for id in (self.output_file_id, self.error_file_id) if id is not None]


class _Listed(msgspec.Struct, frozen=True):
    id: str


class _Models(msgspec.Struct, frozen=True):
    data: list[RemoteModel]


class _Batches(msgspec.Struct, frozen=True):
    data: list[RemoteBatch]


class _Failed(msgspec.Struct, frozen=True):
    message: str


class _Failure(msgspec.Struct, frozen=True):
    error: _Failed


class BatchApi:
    """Of the server at ``url``, with or without /v1. Every call raises ServerLost where nothing
    answers, or the server cannot just now, and UsageError with what it says where it refuses.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise UsageError(f"--server: {url} is no address; write it like http://host:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S)
        self._http = httpx2.Client(base_url=f"{self.url}/v1/", headers=headers, timeout=timeout)

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def find_model(self) -> RemoteModel:
        """The one that answers. Raises UsageError for a server of another kind."""
        models = self._ask("GET", "models", _Models).data
        if not models or models[0].owned_by != _OWNER:
            raise UsageError(
                f"{self.url} is no `glinthawk serve`; give --server the address of one"
            )
        return models[0]

    def upload(self, name: str, content: BinaryIO) -> str:
        """The id of a file, read a piece at a time."""
        call = {"data": {"purpose": "batch"}, "files": {"file": (name, content)}}
        return self._ask("POST", "files", _Listed, **call).id

    def create(
        self, file_id: str, endpoint: str, window: str, metadata: Mapping[str, str]
    ) -> RemoteBatch:
        """A batch of the lines of a file."""
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": metadata,
        }
        return self._ask("POST", "batches", RemoteBatch, json=body)

    def retrieve(self, id: str) -> RemoteBatch:
        return self._ask("GET", f"batches/{id}", RemoteBatch)

    def cancel(self, id: str) -> RemoteBatch:
        return self._ask("POST", f"batches/{id}/cancel", RemoteBatch)

    def batches(self) -> Iterator[RemoteBatch]:
        """All that belong to the key, the newest first."""
        after: dict[str, Any] = {}
        while page := self._ask("GET", "batches", _Batches, params={"limit": _PAGE, **after}).data:
            yield from page
            after = {"after": page[-1].id}

    def lines(self, file_id: str) -> Iterator[bytes]:
        """Those of a file, each with its end, as they come. Raises ServerLost if they break off."""
        try:
            with self._http.stream("GET", f"files/{file_id}/content") as answer:
                if answer.status_code != HTTPStatus.OK:
                    answer.read()
                    self._check(answer)
                yield from _whole_lines(answer.iter_bytes())
        except httpx2.TransportError as error:
            raise self._lost(error) from error

    def delete_file(self, id: str) -> None:
        self._ask("DELETE", f"files/{id}", _Listed)

    def _ask(self, method: str, path: str, form: type[_T], **more: Any) -> _T:
        try:
            answer = self._http.request(method, path, **more)
        except httpx2.TransportError as error:
            raise self._lost(error) from error
        self._check(answer)
        try:
            return msgspec.json.decode(answer.content, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.url} is no `glinthawk serve` ({error})") from error

    def _check(self, answer: httpx2.Response) -> None:
        status = answer.status_code
        if status < HTTPStatus.BAD_REQUEST:
            return
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._lost(f"status {status}")
        if status == HTTPStatus.UNAUTHORIZED:
            raise UsageError(f"{self.url} wants one of its keys; give it with --api-key")
        raise UsageError(f"{self.url} refuses that: {_reason(answer)}")

    def _lost(self, why: object) -> ServerLost:
        return ServerLost(f"{self.url} does not answer ({why}); start it, or give another --server")


def _reason(answer: httpx2.Response) -> str:
    try:
        return msgspec.json.decode(answer.content, type=_Failure).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"status {answer.status_code}"


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
