"""A batch file from its first line to the exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from glinthawk.cli.failure_report import report_failures
from glinthawk.cli.job_options import JobOptions
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import GlinthawkError
from glinthawk.core.hub import check_hub
from glinthawk.core.lora import identify_adapters
from glinthawk.core.plan import Plan
from glinthawk.core.source import identify_model, resolve_model
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.line_rules import LineRules

__all__ = ["answer_file", "fingerprint_of", "open_console"]

#: What an answer depends on. Another value of any of these is another job. So are other types of
#: numbers and another length, which are known when the model is loaded (``Run.resolved``).
_FINGERPRINT = ("load_format", "seed")


def fingerprint_of(config: EngineConfig, rules: LineRules) -> dict[str, Any]:
    """What the answers of a job depend on, but for its input."""
    fingerprint = {name: getattr(config, name) for name in _FINGERPRINT} | rules.changes()
    adapters = {"lora": identify_adapters(config.lora)} if config.lora else {}
    return {"model": identify_model(config.model), **adapters, **fingerprint}


def answer_file(
    config: EngineConfig,
    rules: LineRules,
    source: Path,
    output: Path,
    options: JobOptions,
    plan: Plan | None = None,
) -> int:
    """Answer ``source`` in ``output``; returns the exit status. ``plan`` is stored with the job,
    if ``config`` follows one."""
    console = open_console(options.quiet)
    with Journal.open(
        source,
        output,
        fingerprint_of(config, rules),
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
            console.print(f"loading {config.model}")
            check_hub(resolve_model(config.model))
            # It takes seconds to import: not before there is work.
            from glinthawk.cli.job_run import answer_lines

            stopped = answer_lines(config, rules, output, options, journal, console)
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
