"""What stands around a body: whose line it is, and what it is for."""

from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.core.nearest import advise_name
from glinthawk.jobs.broken_lines import name_problem

__all__ = [
    "ENDPOINTS",
    "Kind",
    "PlainLine",
    "PooledKind",
    "TextKind",
    "find_kind",
    "read_envelope",
    "read_kind",
    "read_plain",
]

#: Lines whose answer is text, and those that ask for vectors or scores of what they bring.
TextKind = Literal["chat", "completion", "response"]
PooledKind = Literal["embedding", "score", "ranking"]
Kind = TextKind | PooledKind

_FIELDS = ("custom_id", "method", "url", "body")
#: Longer ones first, as one ends like another.
_KINDS: dict[str, Kind] = {
    "/chat/completions": "chat",
    "/completions": "completion",
    "/responses": "response",
    "/embeddings": "embedding",
    "/score": "score",
    "/rerank": "ranking",
}
_PREFIXES = ("", "/v1", "/v2")
#: As they are told.
ENDPOINTS = tuple(f"/v1{endpoint}" for endpoint in _KINDS)


class PlainLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line as nearly all are; ``body`` is unchecked."""

    custom_id: str
    url: str
    body: Any
    method: Literal["POST"] = "POST"


_plain_lines = msgspec.json.Decoder(PlainLine)


def read_plain(raw: bytes) -> PlainLine | None:
    """A line of the common form at once. None says nothing of the line but that it is another."""
    try:
        return _plain_lines.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_envelope(raw: bytes) -> dict[str, Any]:
    """The fields of a line, nulls left out. RequestError says why there are none."""
    try:
        envelope = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(name_problem(raw, error), code="invalid_json_line") from error
    if not isinstance(envelope, dict):
        raise RequestError(
            f"the line must be an object with {', '.join(_FIELDS)}", code="invalid_json_line"
        )
    given = {name: value for name, value in envelope.items() if value is not None}
    for name in given:
        if name not in _FIELDS:
            raise RequestError(
                f"{name} is not supported; "
                + advise_name(name, _FIELDS, f"remove it. A line has {', '.join(_FIELDS)}"),
                param=name,
                code="unsupported_field",
            )
    return given


def read_kind(envelope: dict[str, Any]) -> Kind:
    """What the line is for: method and url. Of a full address the host is passed over."""
    method = envelope.get("method", "POST")
    if not isinstance(method, str) or method.upper() != "POST":
        raise RequestError('method must be "POST"; correct it', param="method")
    return find_kind(envelope.get("url"))


def find_kind(url: object) -> Kind:
    """What ``url`` is for. Raises RequestError."""
    endpoint = _endpoint(url) if isinstance(url, str) else None
    if endpoint in _KINDS:
        return _KINDS[endpoint]
    known = ", ".join(ENDPOINTS)
    raise RequestError(f"url must be one of {known}; correct it", param="url", code="invalid_url")


@lru_cache(maxsize=64)
def _endpoint(url: str) -> str | None:
    """Without host, version, query and a slash at its end; None for any other."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    path = "/" + parts.path.strip("/")
    for endpoint in _KINDS:
        before = path.removesuffix(endpoint)
        if before != path and (before in _PREFIXES or parts.netloc):
            return endpoint
    return None
