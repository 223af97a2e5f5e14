"""The lines of a job as batches take them: each of one endpoint, and none that a server would
refuse the whole batch for.

Numbers stay: where a line is not of a batch, a blank one stands in its place. So a result says
which line of the job it answers, as it does where no server stands between.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from glinthawk.core.errors import RequestError
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_envelope import ENDPOINTS, read_kind
from glinthawk.jobs.lines import Refusal, read_call, refuse_line
from glinthawk.jobs.results import refusal_line
from glinthawk.jobs.unanswered import unanswered_lines

__all__ = ["divide_lines"]

_ENDPOINTS = {read_kind({"url": endpoint}): endpoint for endpoint in ENDPOINTS}


def divide_lines(journal: Journal, folder: Path) -> Mapping[str, Path]:
    """Write lines without a result to files in ``folder``, which are returned by their endpoint.
    What is no request at all is refused in the journal."""

    def refuse(refusal: Refusal) -> None:
        journal.append(refusal.line, refusal_line(refusal), failed=True)

    with ExitStack() as stack:
        drafts = _Drafts(folder, stack)
        for line, raw in unanswered_lines(journal, refuse):
            try:
                drafts.write(_endpoint_of(raw), line, raw)
            except RequestError as error:
                refuse(refuse_line(line, raw, error))
    journal.flush()
    return drafts.paths


def _endpoint_of(raw: bytes) -> str:
    _, kind, body = read_call(raw)
    if not isinstance(body, dict):
        raise RequestError("body must be an object; see the README for an example", param="body")
    return _ENDPOINTS[kind]


class _Drafts:
    """A file for each endpoint that there is a line for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.paths: dict[str, Path] = {}
        self._files: dict[str, BinaryIO] = {}
        self._num_lines: dict[str, int] = {}

    def write(self, endpoint: str, line: int, raw: bytes) -> None:
        """Blank lines before it, where other lines were."""
        if endpoint not in self._files:
            path = self._folder / f"{len(self._files)}.jsonl"
            self.paths[endpoint] = path
            self._files[endpoint] = self._stack.enter_context(path.open("xb"))
        blank = b"\n" * (line - self._num_lines.get(endpoint, 0))
        self._files[endpoint].write(blank + raw.rstrip(b"\r\n") + b"\n")
        self._num_lines[endpoint] = line + 1
