"""The event log of a run, from its beginning to whatever ends it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glinthawk.core.errors import GlinthawkError
from glinthawk.engine.event_log import EventFile, EventLog, EventRing
from glinthawk.jobs.stream import is_stream

__all__ = ["keep_events"]


@contextmanager
def keep_events(path: Path | None, output: Path) -> Iterator[EventLog]:
    """All events in ``path``; or the last ones in memory, written beside ``output`` when the run
    ends by an error that nobody has foreseen. Both say where they are then."""
    log: EventLog = EventFile(path) if path else EventRing(_beside(output))
    try:
        yield log
    except BaseException as error:
        _end(log, error)
        raise
    log.save()


def _end(log: EventLog, error: BaseException) -> None:
    """``error`` stays the one that is told of, whatever becomes of the log."""
    foreseen = isinstance(error, GlinthawkError) or not isinstance(error, Exception)
    try:
        place = log.save(None if foreseen else f"{type(error).__name__}: {error}")
    except (GlinthawkError, OSError) as problem:
        error.add_note(f"the scheduler's events could not be kept: {problem}")
        return
    if place is not None and not foreseen:
        error.add_note(f"the scheduler's events are in {place}; run `glinthawk replay {place}`")


def _beside(output: Path) -> Path:
    """Where there is no file to lie beside, the working folder has to do."""
    folder = Path() if is_stream(output) else output.parent
    return folder / f"{output.name}.events"
