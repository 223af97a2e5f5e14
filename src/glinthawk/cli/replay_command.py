"""``glinthawk replay``."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from glinthawk import __version__
from glinthawk.cli.options import spread
from glinthawk.core.errors import UsageError

if TYPE_CHECKING:
    from glinthawk.engine.event_reader import EventReader
    from glinthawk.scheduler.scheduler import Scheduler

__all__ = ["replay"]


@spread
def replay(
    file: Annotated[
        Path,
        typer.Argument(
            help="As `glinthawk run --event-log` made it; or OUT.events, which a run leaves that "
            "ended by an unexpected error."
        ),
    ],
    story: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Tell instead what happened to one request, by its custom_id, or to one sequence, "
            "by its number.",
        ),
    ] = None,
) -> None:
    """Run the scheduler's events of a run once more, and compare what it decides.

    Its own sums are checked after every event. Exit status: 0 all is as it was; 1 something is not;
    2 the log is cut, damaged or without its beginning.
    """
    from glinthawk.engine.event_reader import EventReader

    console = Console(soft_wrap=True, highlight=False, markup=False)
    with closing(EventReader(file)) as log:
        if story is None:
            raise typer.Exit(_run_again(log, file, console))
        _tell(log, file, story, console)


def _run_again(log: "EventReader", file: Path, console: Console) -> int:
    from glinthawk.scheduler.replay import Replay

    if log.header.first:
        raise UsageError(
            f"{file} begins with event {log.header.first}, and the scheduler's state before it is "
            "not known; see --story, or record the whole run with `glinthawk run --event-log`"
        )
    again = Replay(log.header.limits, log.header.page_tokens)
    kinds: Counter[str] = Counter()
    try:
        for number, record in log:
            if difference := again.take(record):
                console.print(f"event {number} ({_kind(record)}): {difference}")
                _say_version(log, console)
                return 1
            kinds[_kind(record)] += 1
    finally:  # of a log that is cut, as far as it goes
        _summarise(kinds, again.scheduler, console)
    _say_end(log, console)
    return 0


def _summarise(kinds: Counter[str], scheduler: "Scheduler", console: Console) -> None:
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    console.print(
        f"{kinds.total()} events are as they were, and the sums hold after each: {listed}"
    )
    counts = scheduler.counts
    console.print(
        f"{counts.batches} batches, {counts.preemptions} pre-emptions, "
        f"{counts.shared_tokens} tokens shared, {counts.repeated_tokens} repeated"
    )


def _tell(log: "EventReader", file: Path, who: str, console: Console) -> None:
    from glinthawk.scheduler.story import story

    table = Table("event", "sequence", "what happened", title=f"the story of {who}")
    try:
        for line in story(who, log):
            table.add_row(str(line.event), str(line.sequence), line.text)
    finally:  # what is known stands above what is wrong with the log
        if table.row_count:
            console.print(table)
    if not table.row_count:
        lost = f"; events before {log.header.first} are lost" if log.header.first else ""
        raise UsageError(
            f"nothing in {file} is of a custom_id or sequence {who!r}{lost}; give another one"
        )
    _say_end(log, console)


def _say_end(log: "EventReader", console: Console) -> None:
    if log.end is not None and log.end.error is not None:
        console.print(f"the run ended by an unexpected error: {log.end.error}")


def _say_version(log: "EventReader", console: Console) -> None:
    if log.header.glinthawk != __version__:
        console.print(f"recorded by glinthawk {log.header.glinthawk}; this is {__version__}")


def _kind(record: object) -> str:
    return type(record).__name__.lower()
