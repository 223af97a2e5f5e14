"""``glinthawk run``."""

from typing import Annotated, Any

import typer

from glinthawk.cli.file_options import FileOptions
from glinthawk.cli.job_options import JobOptions
from glinthawk.cli.options import SettingsOf, spread
from glinthawk.cli.outputs import check_apart
from glinthawk.cli.server_options import RemoteOptions
from glinthawk.core.config import EngineConfig
from glinthawk.core.errors import UsageError
from glinthawk.core.plan import Plan
from glinthawk.jobs.line_rules import LineRules

__all__ = ["run"]

_OPTIONAL = {"model": "Required without --server."}
#: Of a job that is answered here.
_OF_THIS_PROCESS = {"plan", "stats_json", "trace", "event_log", "text_processes"}


@spread
def run(
    context: typer.Context,
    settings: Annotated[dict[str, Any], SettingsOf(EngineConfig, optional=_OPTIONAL)],
    rules: Annotated[dict[str, Any], SettingsOf(LineRules)],
    files: FileOptions,
    options: JobOptions,
    remote: RemoteOptions,
) -> None:
    """Answer every line of a batch file or row of a table. The same command again resumes.

    Exit status: 0 every line was answered; 1 some results are errors; 2 the command could not run;
    130 stopped by Ctrl-C.
    """
    check_apart(files.local() | options.written())
    if remote.server is not None:
        _check_remote(_given(context), settings.keys() | rules.keys())
        from glinthawk.cli.converted_job import hand_in_input

        raise typer.Exit(hand_in_input(remote, files, options))
    if settings["model"] is None:
        raise UsageError("give -m a model, or --server a server that has one")
    plan = Plan.load(options.plan) if options.plan is not None else None
    if plan is not None:
        from glinthawk.cli.planned import follow

        settings |= follow(plan, settings, _given(context))
    from glinthawk.cli.converted_job import answer_input

    raise typer.Exit(
        answer_input(EngineConfig(**settings), LineRules(**rules), files, options, plan)
    )


def _check_remote(given: set[str], engine: set[str]) -> None:
    """Raises UsageError for what only an engine here could do."""
    here = given & (engine | _OF_THIS_PROCESS)
    if here:
        option = sorted(here)[0].replace("_", "-")
        raise UsageError(f"--{option} is the server's own with --server; leave it out")


def _given(context: typer.Context) -> set[str]:
    """Parameters that the command line has, or its file of options."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name))
        and source.name in ("COMMANDLINE", "DEFAULT_MAP")
    }
