"""Files and batches as OpenAI's API shows them."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from glinthawk.serve.batch_states import STAMPS, may_follow

__all__ = ["BatchErrors", "BatchObject", "FileObject", "LineError", "RequestCounts", "StateError"]


class StateError(Exception):
    """A batch cannot go from the state that it is in to the one that is asked for."""


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was uploaded, or that a batch has written. ``bytes`` is its size."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch has failed; ``line`` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """A list, as the API has lists."""

    data: list[LineError]
    object: str = "list"


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines: all, those with an answer, those with an error."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Times are in seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    object: str = "batch"
    model: str | None = None
    errors: BatchErrors | None = None
    status: str = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: Mapping[str, str] | None = None

    def moved(self, status: str, **changes: Any) -> "BatchObject":
        """In its next state, from now on. Raises StateError."""
        if not may_follow(self.status, status):
            raise StateError(f"a batch that is {self.status} cannot become {status}")
        return replace(self, status=status, **{STAMPS[status]: int(time.time())}, **changes)
