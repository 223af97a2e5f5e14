"""A batch file from its first line to the exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from glinthawk.cli.answerers import Answerer
from glinthawk.cli.failure_report import report_failures
from glinthawk.cli.job_options import JobOptions
from glinthawk.core.errors import GlinthawkError
from glinthawk.core.plan import Plan
from glinthawk.jobs.journal import Journal

__all__ = ["answer_file", "open_console"]


def answer_file(
    answerer: Answerer,
    source: Path,
    output: Path,
    options: JobOptions,
    plan: Plan | None = None,
) -> int:
    """Answer ``source`` in ``output``; returns the exit status. ``plan`` is stored with the job,
    if it follows one."""
    console = open_console(options.quiet)
    with Journal.open(
        source,
        output,
        answerer.fingerprint,
        plan=plan,
        restart=options.restart,
        retry_errors=options.retry_errors,
    ) as journal:
        left = journal.survey.num_requests - journal.num_done + journal.num_to_retry
        # What a longer --max-model-len would go on with is known when the model is loaded.
        if journal.num_done and not left and not options.retry_errors:
            console.print(f"every line has its result already{_errors(journal)}: {output}")
            report_failures(journal, options.errors, console)
            return 1 if journal.num_failed else 0
        if journal.num_resumed:
            console.print(
                f"resuming: {journal.num_resumed} lines have their results{_retried(journal)}"
            )
        with _telling_what_is_safe(journal, console):
            stopped = answerer.answer(journal, output, console)
        return _conclude(journal, stopped, output, options, console)


def open_console(quiet: bool) -> Console:
    """Where all is told, on standard error."""
    # A terminal would break lines inside of words; a file has no width.
    is_file = not sys.stderr.isatty()
    return Console(stderr=True, quiet=quiet, soft_wrap=is_file, highlight=False, markup=False)


@contextmanager
def _telling_what_is_safe(journal: Journal, console: Console) -> Iterator[None]:
    try:
        yield
    except GlinthawkError:
        journal.flush()
        if journal.num_done:
            console.print(f"{journal.num_done} results are safe; run it again to resume")
        raise


def _conclude(
    journal: Journal, stopped: bool, output: Path, options: JobOptions, console: Console
) -> int:
    """The exit status."""
    done, total = journal.num_done, journal.survey.num_requests
    is_cut = stopped and done < total
    if is_cut:
        console.print(f"stopped; {done} of {total} lines are answered in {output}")
        console.print("run the same command again to resume")
    else:
        console.print(f"{done} results{_errors(journal)}: {output}")
    report_failures(journal, options.errors, console)
    if is_cut:
        return 130
    return 1 if journal.num_failed else 0


def _errors(journal: Journal) -> str:
    if not journal.num_failed:
        return ", none of them errors"
    return f", {journal.num_failed} of them errors (--retry-errors runs those again)"


def _retried(journal: Journal) -> str:
    if not journal.num_to_retry:
        return ""
    return f", {journal.num_to_retry} of them errors that are run again"
