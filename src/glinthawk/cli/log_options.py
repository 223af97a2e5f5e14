"""How commands that run for long say what happens."""

from typing import Annotated

import typer

__all__ = ["LogJsonFlag"]


def _begin(context: typer.Context, is_given: bool) -> bool:
    """Before anything is said."""
    if is_given and not context.resilient_parsing:
        from glinthawk.telemetry.json_log import log_as_json

        log_as_json()
    return is_given


LogJsonFlag = Annotated[
    bool,
    typer.Option(
        "--log-json",
        help="Write each line of standard error as a JSON object: time, level, logger, message.",
        callback=_begin,
        is_eager=True,
    ),
]
