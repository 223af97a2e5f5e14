"""What the page is told, again and again, as server-sent events."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec

from glinthawk.serve.page_jobs import PageJob
from glinthawk.telemetry.history import Stretch
from glinthawk.telemetry.live_view import LiveView, RunView

__all__ = ["PageFeed", "Seen", "event"]


@dataclass(slots=True)
class Seen:
    """What one reader of the page has of the plots already."""

    revision: int = -1
    at: float = 0.0


class PageFeed:
    """Of one run. ``jobs`` are those that the owner of a key may see."""

    def __init__(
        self, title: str, kind: str, view: LiveView, jobs: Callable[[str], list[PageJob]]
    ) -> None:
        self._head = {"title": title, "kind": kind, "began": time.time()}
        self._view, self._jobs = view, jobs

    def tell(self, owner: str, seen: Seen) -> bytes:
        """How things are; of the plots what the reader has not ``seen``."""
        now = time.time()
        view = self._view.look(now)
        is_whole = seen.revision != view.revision
        points = [one for one in view.points if is_whole or one.at > seen.at]
        seen.revision = view.revision
        seen.at = points[-1].at if points else seen.at
        told = self._head | {"at": now, "jobs": self._jobs(owner), **_describe(view)}
        return event("now", told | {"is_whole": is_whole, "points": _columns(points)})


def event(name: str, data: Any) -> bytes:
    """One server-sent event; JSON has no line ends."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _describe(view: RunView) -> dict[str, Any]:
    reading, recent = view.reading, view.recent
    return {
        "recent": recent,
        "limit": view.limit,
        "is_idle": not reading.running and not reading.waiting,
        "tokens": reading.tokens,
        "running": reading.running,
        "waiting": reading.waiting,
        "in_flight": reading.in_flight,
        "most_in_flight": reading.most_in_flight,
        "preemptions": reading.preemptions,
        "kv_used": sum(reading.kv_used.values()),
        "kv_room": sum(reading.kv_room.values()),
        "places": view.places,
        "changes": [asdict(one) for one in view.changes],
    }


def _columns(points: Sequence[Stretch]) -> dict[str, list[float | None]]:
    return {one.name: [getattr(point, one.name) for point in points] for one in fields(Stretch)}
