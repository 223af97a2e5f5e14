"""Errors as OpenAI's API answers them."""

import sqlite3
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from glinthawk.core.errors import GlinthawkError, RequestError
from glinthawk.serve.api_objects import StateError
from glinthawk.serve.record_store import NoSuchRecord

__all__ = ["HANDLERS", "ApiError", "body_of", "error_body"]

#: Types by status; all others below 500 are bad requests.
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_STATUS = {"model_not_found": 404}


class ApiError(Exception):
    """A call cannot be answered. ``param`` names the field at fault."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body that says so."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: RequestError) -> tuple[int, dict[str, Any]]:
    """Status and body for a request that cannot be answered."""
    status = _STATUS.get(error.code, 400)
    return status, error_body(400, str(error), error.param, error.code)


def _answer(status: int, body: dict[str, Any]) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status, headers)


def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(error.status, error_body(error.status, str(error), error.param, error.code))


def _request_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _answer(*body_of(error))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: f"there is no {request.url.path}", 405: f"{request.method} is not answered here"}
    message = told.get(error.status_code, error.detail)
    return _answer(error.status_code, error_body(error.status_code, message))


def _no_record(_request: Request, error: Exception) -> Response:
    return _answer(404, error_body(404, f"there is no {error} of yours", "id", "not_found"))


def _wrong_state(_request: Request, error: Exception) -> Response:
    return _answer(409, error_body(409, str(error), "status", "conflict"))


def _out_of_order(_request: Request, error: Exception) -> Response:
    return _answer(503, error_body(503, str(error)))


def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # to nobody


def _disk_error(_request: Request, error: Exception) -> Response:
    reason = error.strerror if isinstance(error, OSError) else error
    return _answer(507, error_body(507, f"the server cannot store that: {reason}"))


def _unexpected(_request: Request, error: Exception) -> Response:
    return _answer(500, error_body(500, f"the server has a defect ({type(error).__name__})"))


#: For Starlette.
HANDLERS: dict[Any, Any] = {
    ApiError: _api_error,
    GlinthawkError: _out_of_order,
    RequestError: _request_error,
    HTTPException: _http_error,
    NoSuchRecord: _no_record,
    StateError: _wrong_state,
    ClientDisconnect: _gone,
    OSError: _disk_error,
    sqlite3.OperationalError: _disk_error,
    Exception: _unexpected,
}
