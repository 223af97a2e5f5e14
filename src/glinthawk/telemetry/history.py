"""How a run went: what it did in each piece of its time."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from glinthawk.telemetry.reading import Glance, Reading

__all__ = ["History", "Stretch", "measure", "worker_loads"]

#: Pieces that are kept, and how long one may become; then the oldest are forgotten.
_MOST, _LONGEST_S = 480, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Of ``seconds`` that ended ``at``, in seconds since 1970. Shares are of that time, or of the
    KV room; None where nobody knows."""

    at: float
    seconds: float
    tokens_per_s: float
    tier1: float | None
    #: Of the busiest worker.
    tier2: float | None
    kv: float
    #: Bytes a second over all links.
    bytes_out: float
    bytes_back: float


def measure(before: Reading, now: Reading, at: float) -> Stretch:
    """What lies between two readings."""
    seconds = max(1e-9, now.at_s - before.at_s)
    then, glance = before.glance, now.glance
    busy = worker_loads(before, now)

    def rate(of: Callable[[Glance], float]) -> float | None:
        if then is None or glance is None:
            return None
        # What was done is less than before where one came again that began at 0.
        return max(0.0, of(glance) - of(then)) / seconds

    return Stretch(
        at=at,
        seconds=seconds,
        tokens_per_s=(now.tokens - before.tokens) / seconds,
        tier1=_share(rate(lambda one: one.tier1_busy_s)),
        tier2=max(busy.values(), default=None),
        kv=sum(now.kv_used.values()) / max(1, sum(now.kv_room.values())),
        bytes_out=rate(lambda one: one.bytes_out) or 0.0,
        bytes_back=rate(lambda one: one.bytes_back) or 0.0,
    )


def worker_loads(before: Reading, now: Reading) -> dict[int, float]:
    """Of the workers that are there, by home: shares of the time in which they attended."""
    if before.glance is None or now.glance is None:
        return {}
    seconds = max(1e-9, now.at_s - before.at_s)
    then, sums = before.glance.tier2_busy_s, now.glance.tier2_busy_s
    grown = {home: sums.get(home, 0.0) - then.get(home, 0.0) for home in now.kv_room if home}
    # One that has come again began at 0: nothing is known of its first moments.
    return {home: min(1.0, max(0.0, one) / seconds) for home, one in grown.items()}


def _share(value: float | None) -> float | None:
    return None if value is None else min(1.0, value)


class History:
    """The whole of a run in a few hundred points, which are of longer times the longer it lasts; at
    last only its end."""

    def __init__(self, most: int = _MOST, longest_s: float = _LONGEST_S) -> None:
        self._most, self._longest_s = most, longest_s
        self._every_s = 0.0
        self._growing: Stretch | None = None
        self.points: list[Stretch] = []
        #: Of times that points gave way to others.
        self.revision = 0

    def add(self, point: Stretch) -> None:
        """The next piece."""
        growing = point if self._growing is None else _join(self._growing, point)
        if growing.seconds < self._every_s:
            self._growing = growing
            return
        self._growing = None
        self.points.append(growing)
        if len(self.points) > self._most:
            self._coarsen()

    def _coarsen(self) -> None:
        self.revision += 1
        half = len(self.points) // 2
        longest = max(point.seconds for point in self.points)
        if 2 * longest > self._longest_s:
            self.points = self.points[half:]
            return
        # Those that were read a moment early are not left with a third one.
        self._every_s = 1.9 * longest
        pairs = zip(self.points[0 : 2 * half : 2], self.points[1 : 2 * half : 2], strict=True)
        self.points = [_join(*pair) for pair in pairs] + self.points[2 * half :]


def _join(one: Stretch, two: Stretch) -> Stretch:
    """Both in one; what only one of them knows, it says alone."""
    values: dict[str, float | None] = {}
    for name in (field.name for field in fields(Stretch) if field.name not in ("at", "seconds")):
        known = [(getattr(p, name), p.seconds) for p in (one, two) if getattr(p, name) is not None]
        total = sum(seconds for _, seconds in known)
        values[name] = sum(v * seconds for v, seconds in known) / total if known else None
    return Stretch(at=two.at, seconds=one.seconds + two.seconds, **values)  # type: ignore[arg-type]
