"""Bodies of calls and of answers: JSON, of a bounded size."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from glinthawk.serve.api_errors import ApiError

__all__ = ["JsonAnswer", "owner_of", "read_json", "read_limited", "read_number"]


class JsonAnswer(Response):
    """Whatever msgspec writes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def owner_of(request: Request) -> str:
    """The name of the key that was given."""
    owner: str = request.scope["glinthawk.owner"]
    return owner


async def read_limited(request: Request, most_bytes: int, option: str = "") -> bytes:
    """The body. Raises ApiError for one that is too large, as soon as that is known; ``option``
    sets what is."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most_bytes:
        raise _too_large(most_bytes, option)
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > most_bytes:
            raise _too_large(most_bytes, option)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: Request, most_bytes: int, option: str = "") -> Any:
    """The body, decoded. Raises ApiError."""
    try:
        return msgspec.json.decode(await read_limited(request, most_bytes, option))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({error})") from error


def read_number(request: Request, name: str, default: int, most: int) -> int:
    """A number of the query. Raises ApiError for what is none, or beyond 1 to ``most``."""
    given = request.query_params.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
        raise ApiError(400, f"{name} must be a number of 1 to {most}", param=name)
    return int(given)


def _too_large(most_bytes: int, option: str) -> ApiError:
    where = f" ({option})" if option else ""
    return ApiError(413, f"a body has at most {most_bytes} bytes here{where}")
