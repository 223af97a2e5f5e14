"""Which lines have a result, read back from the output itself."""

import re
from pathlib import Path

from glinthawk.core.errors import JournalError
from glinthawk.jobs.failures import Failures
from glinthawk.jobs.line_set import LineSet

__all__ = ["Finished", "is_success", "read_finished", "read_line_number"]

#: How every result line begins, and how one that is an answer; see results.py.
_HEAD = re.compile(rb'\{"id":"batch_req_([0-9]{9,18})",')
_END = b"}\n"
_SUCCESS = re.compile(
    rb'\{"id":"batch_req_[0-9]{9,18}","custom_id":(?:null|"(?:[^"\\]|\\.)*"),'
    rb'"response":\{"status_code":200,'
)


class Finished:
    """Line numbers with a result, and which of those failed."""

    def __init__(self) -> None:
        self._lines = LineSet()
        self.failures = Failures()

    @property
    def num_done(self) -> int:
        """Failed ones included."""
        return len(self._lines)

    @property
    def end(self) -> int:
        """The first number after all of them."""
        return self._lines.end

    def __contains__(self, line: int) -> bool:
        return line in self._lines

    def add(self, line: int, result: bytes, *, failed: bool) -> None:
        """Count ``line`` as answered by ``result``; once only."""
        self._lines.add(line)
        if failed:
            self.failures.add(line, result)


def read_finished(output: Path, num_lines: int) -> tuple[Finished, int]:
    """Lines that ``output`` answers, and its size up to the end of the last whole one.

    Results are never parsed: a line's number stands in its first bytes. Only the last line may be
    torn; anything else that is no result of this input is an error.
    """
    finished = Finished()
    size = 0
    with output.open("rb") as lines:
        for row, result in enumerate(lines):
            if not result.endswith(b"\n"):
                break
            line = read_line_number(result)
            if line is None:
                raise _corrupt(output, row, size, "is not a whole result")
            _count(finished, line, result, num_lines, (output, row, size))
            size += len(result)
    return finished, size


def _count(
    finished: Finished, line: int, result: bytes, num_lines: int, where: tuple[Path, int, int]
) -> None:
    if line >= num_lines:
        raise _corrupt(*where, f"answers line {line + 1} of an input of {num_lines} lines")
    if line in finished:
        raise _corrupt(*where, f"answers line {line + 1} of the input a second time")
    finished.add(line, result, failed=not is_success(result))


def read_line_number(result: bytes) -> int | None:
    """Which line of the input a whole result line answers, from 0; None if it is none."""
    head = _HEAD.match(result)
    return int(head[1]) if head and result.endswith(_END) and b"\0" not in result else None


def is_success(result: bytes) -> bool:
    """Whether a whole result line is an answer, not an error."""
    return _SUCCESS.match(result) is not None


def _corrupt(output: Path, row: int, size: int, problem: str) -> JournalError:
    return JournalError(
        f"line {row + 1} of {output} {problem}; cut it off there with `truncate -s {size} {output}`"
        " and run again, or begin anew with --restart"
    )
