"""The event log of a run, from its beginning to whatever ends it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from glinthawk.core.errors import GlinthawkError
from glinthawk.jobs.stream import is_stream
from glinthawk.runtime.event_log import EventFile, EventLog, EventRing

__all__ = ["keep_events"]


@contextmanager
def keep_events(path: Path | None, output: Path, console: Console) -> Iterator[EventLog]:
    """All events in ``path``; or the last ones in memory, written beside ``output`` when the run
    ends by an error that nobody has foreseen. Both say where they are then."""
    log: EventLog = EventFile(path) if path else EventRing(_beside(output))
    try:
        yield log
    except GlinthawkError:
        log.save()
        raise
    except Exception as error:
        _save_beside(error, log, console)
        raise
    except BaseException:
        log.save()
        raise
    log.save()


def _save_beside(error: Exception, log: EventLog, console: Console) -> None:
    """The first error stays the one that is told of, whatever becomes of the log."""
    try:
        place = log.save(f"{type(error).__name__}: {error}")
    except (GlinthawkError, OSError) as problem:
        console.print(f"the scheduler's last events could not be kept: {problem}")
        return
    if place is not None:
        told = f"the scheduler's last events are in {place}; see `glinthawk replay --help`"
        error.add_note(told)


def _beside(output: Path) -> Path:
    """Where there is no file to lie beside, the working folder has to do."""
    folder = Path() if is_stream(output) else output.parent
    return folder / f"{output.name}.events"
