"""A job from whatever its input is to whatever its output shall be."""

from contextlib import closing
from typing import Any

from glinthawk.cli.answerers import Answerer, OwnEngine, RemoteServer
from glinthawk.cli.batch_file import answer_file, open_console
from glinthawk.cli.file_options import FileOptions
from glinthawk.cli.job_options import JobOptions
from glinthawk.cli.server_options import RemoteOptions
from glinthawk.client.batch_api import BatchApi
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.files.conversion import Conversion, open_conversion
from glinthawk.files.source_record import SourceRecord
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.record import load_record

__all__ = ["answer_input", "hand_in_input"]


def answer_input(
    config: EngineConfig,
    rules: LineRules,
    files: FileOptions,
    options: JobOptions,
    plan: Plan | None = None,
) -> int:
    """On this process's tiers; returns the exit status."""
    return _answer(OwnEngine(config, rules, options), files, options, plan)


def hand_in_input(remote: RemoteOptions, files: FileOptions, options: JobOptions) -> int:
    """On a running server; returns the exit status."""
    with closing(BatchApi(remote.server or "", remote.api_key)) as api:
        return _answer(RemoteServer(api, remote, options), files, options)


def _answer(
    answerer: Answerer, files: FileOptions, options: JobOptions, plan: Plan | None = None
) -> int:
    """As ``answer_file`` does, which answers what the converters make of the input."""
    console = open_console(options.quiet)
    given = files.resolve(restart=options.restart, written=options.written().values())
    with open_conversion(given) as conversion:
        whole = conversion.whole_results
        if whole is None or _wants_lines(whole, options):
            whole = conversion.prepare()
        if whole is not None:
            return _tell_whole(whole, conversion, answerer.fingerprint, options)
        status = answer_file(answerer, conversion.requests, conversion.results, options, plan)
        if status in (0, 1):
            conversion.finish(has_errors=status == 1)
            if not conversion.target.is_plain:
                console.print(f"all of it is in {conversion.target.shown}")
    return status


def _wants_lines(whole: SourceRecord, options: JobOptions) -> bool:
    """Of a job that has been done already: to tell reasons, and for --errors and --retry-errors."""
    return whole.has_errors or options.errors is not None


def _tell_whole(
    whole: SourceRecord,
    conversion: Conversion,
    fingerprint: dict[str, Any],
    options: JobOptions,
) -> int:
    """Nothing is to be done, if the settings are those of then."""
    record = load_record(conversion.results)
    assert record is not None
    record.check_fingerprint(fingerprint, conversion.results)
    if options.errors is not None or (whole.has_errors and options.retry_errors):
        raise UsageError("nothing came by the pipe; pipe the same lines in again")
    place = conversion.target.shown
    open_console(options.quiet).print(f"every line has its result already: {place}")
    return 1 if whole.has_errors else 0
