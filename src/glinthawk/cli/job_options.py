"""How ``glinthawk run`` answers its input, and what it writes beside the output."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glinthawk.cli.config_file import ConfigFlag
from glinthawk.cli.dashboard_option import check_dashboard
from glinthawk.cli.log_options import LogJsonFlag
from glinthawk.cli.outputs import check_output
from glinthawk.core.errors import UsageError

__all__ = ["JobOptions"]

#: Of files that are not text, or no lines of JSON.
_NO_LINES = (".gz", ".zst", ".bz2", ".xz", ".zip", ".parquet", ".pq", ".csv", ".tsv")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Beside the engine's settings. Raises UsageError if they do not go together."""

    config: ConfigFlag = None
    errors: Annotated[
        Path | None,
        typer.Option(
            help="Write input lines here whose result is an error, as they stand in the input.",
            callback=check_output,
        ),
    ] = None
    plan: Annotated[
        Path | None,
        typer.Option(
            help="As `glinthawk plan --out` wrote it: batches, KV and workers are its, but for "
            "what other flags say."
        ),
    ] = None
    stats_json: Annotated[
        Path | None,
        typer.Option(help="Write the numbers of this run here.", callback=check_output),
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write what ran when here, as a Chrome trace (ui.perfetto.dev).",
            callback=check_output,
        ),
    ] = None
    event_log: Annotated[
        Path | None,
        typer.Option(
            help="Write every event of the scheduler here, for `glinthawk replay`; token ids of "
            "prompts and answers are in it.",
            callback=check_output,
        ),
    ] = None
    dashboard: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:PORT]",
            help="Show the run on a page in a browser while it goes on, on this machine unless "
            "HOST says otherwise. Needs the extra serve.",
        ),
    ] = None
    text_processes: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=64,
            help="Processes that tokenise prompts and spell long answers beside Tier 1. Default: "
            "one for four cores, at most 4; none for fewer than 2,000 lines.",
        ),
    ] = None
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; the old output is moved aside.")
    ] = False
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Run lines again whose result is an error; with more KV memory, or a longer "
            "--max-model-len, which also runs again what the shorter one cut off.",
        ),
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False
    log_json: LogJsonFlag = False

    def __post_init__(self) -> None:
        if self.dashboard is not None:
            check_dashboard(self.dashboard)
        if self.restart and self.retry_errors:
            raise UsageError("--restart runs every line again; give that or --retry-errors")
        if self.errors is not None and self.errors.name.lower().endswith(_NO_LINES):
            raise UsageError(
                f"--errors: {self.errors} would have lines as they stand; give a name in .jsonl"
            )

    def written(self) -> dict[str, Path | None]:
        """Files that these options name, by the option."""
        return {
            "--errors": self.errors,
            "--stats-json": self.stats_json,
            "--trace": self.trace,
            "--event-log": self.event_log,
        }
