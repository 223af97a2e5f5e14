"""What is looked at before a batch begins: the call that makes it, and its file, line by line.

As in OpenAI's API, a file with lines that are no requests makes the batch fail as a whole, and
nothing is run. A line whose body cannot be answered is found later, and costs only itself.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from glinthawk.core.errors import RequestError
from glinthawk.jobs.input import InputLines
from glinthawk.jobs.line_envelope import ENDPOINTS, read_envelope, read_kind
from glinthawk.jobs.lines import read_custom_id
from glinthawk.jobs.seen import SeenIds
from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.api_objects import LineError

__all__ = ["LineLimits", "NewBatch", "check_file", "read_new_batch"]

#: Problems of a file that are told.
_MOST_ERRORS = 100
_WINDOW = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 366 * _UNITS["d"]
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


@dataclass(frozen=True, slots=True)
class LineLimits:
    """Of the input of a batch: requests at most, and bytes of each at most."""

    most: int
    longest: int


class NewBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a call that makes a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None

    @property
    def window_s(self) -> int:
        """Seconds."""
        number, unit = self.completion_window[:-1], self.completion_window[-1]
        return int(number) * _UNITS[unit]


def read_new_batch(body: Any) -> NewBatch:
    """Checked; raises ApiError."""
    try:
        asked = msgspec.convert(body, NewBatch)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        name = where.strip("`").removeprefix("$.").split("[")[0] or None
        raise ApiError(400, f"{what}{(name and f' in {name}') or ''}", param=name) from error
    if asked.endpoint not in ENDPOINTS:
        known = ", ".join(ENDPOINTS)
        raise ApiError(400, f"endpoint must be one of {known}", param="endpoint")
    if not _WINDOW.fullmatch(asked.completion_window) or asked.window_s > _LONGEST_S:
        raise ApiError(
            400,
            "completion_window must be like 24h (m, h and d are known), a year at most",
            param="completion_window",
        )
    _check_metadata(asked.metadata or {})
    return asked


def _check_metadata(metadata: dict[str, str]) -> None:
    is_short = all(
        len(key) <= _LONGEST_KEY and len(value) <= _LONGEST_VALUE for key, value in metadata.items()
    )
    if len(metadata) > _MOST_PAIRS or not is_short:
        raise ApiError(
            400,
            f"metadata has at most {_MOST_PAIRS} pairs, of keys of {_LONGEST_KEY} characters and "
            f"values of {_LONGEST_VALUE}",
            param="metadata",
        )


def check_file(path: Path, endpoint: str, limits: LineLimits) -> int | list[LineError]:
    """How many requests a file has for ``endpoint``, or what keeps it from being a batch."""
    num_lines, long_line = _count_lines(path, limits.longest)
    if long_line is not None:
        what = f"the line has more than {limits.longest} bytes (--max-body-size)"
        return [LineError(code="line_too_long", message=what, line=long_line)]
    if not num_lines:
        return [LineError(code="empty_file", message="the file has no requests")]
    if num_lines > limits.most:
        what = f"the file has {num_lines} requests, and {limits.most} may be (--max-batch-lines)"
        return [LineError(code="too_many_requests", message=what)]
    return list(islice(_find_errors(path, endpoint, num_lines), _MOST_ERRORS)) or num_lines


def _count_lines(path: Path, longest: int) -> tuple[int, int | None]:
    """Lines that are not blank, and the number, from 1, of the first of more than ``longest``
    bytes, if any. No more of a line than that is ever in memory."""
    count, number = 0, 1
    with path.open("rb") as file:
        while piece := file.readline(longest + 1):
            if len(piece) > longest and not piece.endswith(b"\n"):
                return count, number
            count += not piece.isspace()
            number += 1
    return count, None


def _find_errors(path: Path, endpoint: str, num_lines: int) -> Iterator[LineError]:
    wanted = read_kind({"url": endpoint})
    num_bytes = path.stat().st_size
    with closing(InputLines(path, num_bytes)) as lines:
        seen = SeenIds(num_lines, num_bytes, lines.custom_id_at)
        for line, offset, raw in lines:
            try:
                _check_line(raw, wanted, endpoint)
                custom_id = read_custom_id(raw)
                if custom_id is None or not seen.add(custom_id, offset):
                    raise _bad_id(custom_id)
            except RequestError as error:
                yield LineError(
                    code=error.code, message=str(error), line=line + 1, param=error.param
                )


def _check_line(raw: bytes, wanted: str, endpoint: str) -> None:
    envelope = read_envelope(raw)
    if read_kind(envelope) != wanted:
        raise RequestError(
            f"url must be that of the batch, {endpoint}", param="url", code="mismatched_endpoint"
        )
    if not isinstance(envelope.get("body"), dict):
        raise RequestError(
            "body must be an object", param="body", code="missing_required_parameter"
        )


def _bad_id(custom_id: str | None) -> RequestError:
    if custom_id is None:
        return RequestError(
            "custom_id must be a string", param="custom_id", code="missing_required_parameter"
        )
    return RequestError(
        f"custom_id {custom_id[:64]!r} stands on an earlier line",
        param="custom_id",
        code="duplicate_custom_id",
    )
