"""Why lines failed, at the end of a job."""

from pathlib import Path

from rich.console import Console

from glinthawk.jobs.failures import Reason
from glinthawk.jobs.journal import Journal

__all__ = ["report_failures"]

#: Reasons that are told.
_MOST = 10


def report_failures(journal: Journal, path: Path | None, console: Console) -> None:
    """Say it, and write the failed lines to ``path`` if one is given."""
    reasons = journal.failures.reasons()
    for reason in reasons[:_MOST]:
        console.print(f"  {_describe(reason)}")
    if len(reasons) > _MOST:
        console.print(f"  and {len(reasons) - _MOST} more reasons")
    if path is None:
        return
    from glinthawk.jobs.failed_lines import save_failed_lines

    save_failed_lines(path, journal.source, journal.survey.num_bytes, journal.failures)
    if journal.num_failed:
        console.print(f"those lines: {path}")


def _describe(reason: Reason) -> str:
    first = reason.line + 1
    if reason.count == 1:
        return f"line {first}: {reason.message}"
    return f"{reason.count} lines, the first is line {first}: {reason.message}"
