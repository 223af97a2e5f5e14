"""``glinthawk run``."""

from typing import Annotated, Any

import typer

from glinthawk.cli.file_options import FileOptions
from glinthawk.cli.job_options import JobOptions
from glinthawk.cli.options import SettingsOf, spread
from glinthawk.cli.outputs import check_apart
from glinthawk.core.config import EngineConfig
from glinthawk.core.plan import Plan
from glinthawk.jobs.line_rules import LineRules

__all__ = ["run"]


@spread
def run(
    context: typer.Context,
    settings: Annotated[dict[str, Any], SettingsOf(EngineConfig)],
    rules: Annotated[dict[str, Any], SettingsOf(LineRules)],
    files: FileOptions,
    options: JobOptions,
) -> None:
    """Answer every line of a batch file or row of a table. The same command again resumes.

    Exit status: 0 every line was answered; 1 some results are errors; 2 the command could not run;
    130 stopped by Ctrl-C.
    """
    check_apart(files.local() | options.written())
    plan = Plan.load(options.plan) if options.plan is not None else None
    if plan is not None:
        from glinthawk.cli.planned import follow

        settings |= follow(plan, settings, _given(context))
    from glinthawk.cli.converted_job import answer_input

    raise typer.Exit(
        answer_input(EngineConfig(**settings), LineRules(**rules), files, options, plan)
    )


def _given(context: typer.Context) -> set[str]:
    """Parameters that the command line has, or its file of options."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name))
        and source.name in ("COMMANDLINE", "DEFAULT_MAP")
    }
