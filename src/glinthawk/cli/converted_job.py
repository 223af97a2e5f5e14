"""A job from whatever its input is to whatever its output shall be."""

from glinthawk.cli.batch_file import answer_file, fingerprint_of, open_console
from glinthawk.cli.file_options import FileOptions
from glinthawk.cli.job_options import JobOptions
from glinthawk.core.config import EngineConfig
from glinthawk.core.plan import Plan
from glinthawk.files.conversion import Conversion, open_conversion
from glinthawk.jobs.line_rules import LineRules
from glinthawk.jobs.record import load_record

__all__ = ["answer_input"]


def answer_input(
    config: EngineConfig,
    rules: LineRules,
    files: FileOptions,
    options: JobOptions,
    plan: Plan | None = None,
) -> int:
    """Returns the exit status, as ``answer_file`` does, which answers what the converters make of
    the input."""
    console = open_console(options.quiet)
    given = files.resolve(restart=options.restart, written=options.written().values())
    with open_conversion(given) as conversion:
        if (status := _earlier_status(conversion, config, rules, options)) is not None:
            console.print(f"every line has its result already: {files.output}")
            return status
        conversion.prepare()
        status = answer_file(config, rules, conversion.requests, conversion.results, options, plan)
        if status in (0, 1):
            conversion.finish(has_errors=status == 1)
            if not conversion.target.is_plain:
                console.print(f"all of it is in {files.output}")
    return status


def _earlier_status(
    conversion: Conversion, config: EngineConfig, rules: LineRules, options: JobOptions
) -> int | None:
    """Of a job that has been done already, with the settings of this one."""
    whole = conversion.whole_results
    if whole is None:
        return None
    if whole.has_errors and (options.retry_errors or options.errors is not None):
        return None  # lines are wanted again
    record = load_record(conversion.results)
    if record is None:
        return None
    record.check_fingerprint(fingerprint_of(config, rules), conversion.results)
    return 1 if whole.has_errors else 0
