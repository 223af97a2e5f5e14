"""Where an input or an output is: a path, a URL that fsspec knows, or ``-``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from glinthawk.core.errors import GlinthawkError, UsageError

__all__ = [
    "STANDARD",
    "is_url",
    "open_url",
    "resolve_url",
    "stamp_url",
    "telling_failures",
    "without_secrets",
]

#: Standard input, or standard output.
STANDARD = "-"

#: A scheme has two letters at least; of one, it is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: Who asks, with a password or a token; in Azure's URLs the same place names a container.
_USER = re.compile(r"\b(?!abfss?:|wasbs?:)([A-Za-z][A-Za-z0-9+.-]+://)[^/\s'\"]*@")
#: Signatures and keys; a ``?`` without ``=`` is one of a pattern.
_QUERY = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]+://[^\s?'\"]*)\?[^\s'\"]*=[^\s'\"]*")
#: What stores call that which changes with an object's bytes.
_STAMPS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL, and so no path: ``s3://bucket/in.jsonl``."""
    return _URL.match(text) is not None


def without_secrets(text: str) -> str:
    """``text`` with its URLs as they may be shown and stored: without users and queries."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


@contextmanager
def telling_failures(action: str, place: str) -> Iterator[None]:
    """Whatever a store's own library raises becomes one UsageError: ``cannot read s3://...``."""
    try:
        yield
    except GlinthawkError:
        raise
    except Exception as error:  # each library has a tree of its own
        reason = f"{type(error).__name__}: {error}".strip(": ")
        told = without_secrets(f"cannot {action} {place}: {reason}")
        raise UsageError(f"{told}; correct it, or try again") from error


def resolve_url(url: str) -> tuple[Any, str]:
    """Its file system of fsspec, and the path there."""
    from fsspec.core import url_to_fs

    try:
        with telling_failures("reach", url):
            return cast("tuple[Any, str]", url_to_fs(url))
    except UsageError as error:
        if isinstance(error.__cause__, ImportError):
            told = without_secrets(f"{url}: {error.__cause__}")
            raise UsageError(f"{told}; then run again") from error
        raise


def stamp_url(system: Any, path: str) -> str:
    """What is another text when the bytes at ``path`` are others."""
    with telling_failures("read", path):
        facts = system.info(path)
    return ",".join(f"{name}={facts[name]}" for name in _STAMPS if facts.get(name) is not None)


def open_url(system: Any, path: str) -> BinaryIO:
    """For reading, anywhere in it."""
    with telling_failures("read", path):
        return cast(BinaryIO, system.open(path, "rb"))
