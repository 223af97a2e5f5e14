"""What was measured of a model on a machine, and what follows for sizes between."""

from bisect import bisect_left
from math import exp, log
from pathlib import Path
from typing import Any

import msgspec

from glinthawk.core.errors import UsageError

__all__ = ["Curve", "Grid", "Profile"]


class Curve(msgspec.Struct, frozen=True):
    """Seconds over one size. ``points`` are (size, seconds) by rising size."""

    points: tuple[tuple[float, float], ...]

    @property
    def largest(self) -> float:
        """Size up to which was measured."""
        return self.points[-1][0]

    def at(self, size: float) -> float:
        """Between points a straight line; below the first as there; beyond the last on the line
        through the last two, or level where a noisy measurement lets that line fall: more of
        anything never takes less.

        >>> Curve(((1, 2.0), (3, 4.0))).at(2), Curve(((1, 2.0), (3, 4.0))).at(5)
        (3.0, 6.0)
        >>> Curve(((1, 4.0), (3, 2.0))).at(9)
        2.0
        """
        points = self.points
        if size <= points[0][0] or len(points) == 1:
            return points[0][1]
        index = min(bisect_left(points, (size,)), len(points) - 1)
        (low, low_s), (high, high_s) = points[index - 1 : index + 1]
        slope = (high_s - low_s) / (high - low)
        if size > high:
            return high_s + max(0.0, slope) * (size - high)
        return low_s + slope * (size - low)


class Grid(msgspec.Struct, frozen=True):
    """Seconds of attention: for each measured context (rising) a curve over the rows of a step."""

    contexts: tuple[tuple[float, Curve], ...]

    @property
    def largest(self) -> float:
        """Context up to which was measured."""
        return self.contexts[-1][0]

    def at(self, rows: float, context: float) -> float:
        """Between contexts a power law; below the first as there; beyond the last in proportion."""
        contexts = self.contexts
        if context <= contexts[0][0]:
            return contexts[0][1].at(rows)
        if context >= self.largest:
            return contexts[-1][1].at(rows) * context / self.largest
        index = bisect_left([size for size, _ in contexts], context)
        (low, low_curve), (high, high_curve) = contexts[index - 1 : index + 1]
        weight = log(context / low) / log(high / low)
        logs = log(low_curve.at(rows)), log(high_curve.at(rows))
        return exp(logs[0] + (logs[1] - logs[0]) * weight)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds over all layers of the model, sizes in tokens, on the threads named."""

    machine: str
    date: str
    model: str
    dtype: str
    tier1_threads: int
    worker_threads: int
    #: Tier 1's step without attention and head, by rows; and the head, by rows.
    dense: Curve
    head: Curve
    #: Attention inside one prompt, by its length.
    prompt: Curve
    #: Sampling, and all that the engine does for a step, by sequences.
    step: Curve
    #: Tier 1's own work for decode rows at a worker, by rows; and for one token of a prompt.
    parcel: Curve
    prompt_parcel: float
    #: Attention on Tier 1 and on a worker, by KV type.
    near: dict[str, Grid]
    far: dict[str, Grid]
    #: A worker's time to keep one token of a prompt, by KV type.
    store: dict[str, float]
    #: From a worker to Tier 1 or back, and the bytes that went through in a second, at least.
    link_latency_s: float
    link_bytes_per_s: float
    #: Sequential direct reads of the drive that was named, bytes a second.
    storage_bytes_per_s: float | None = None

    def save(self, path: Path) -> None:
        """As JSON, for ``load``."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Raises UsageError when the file is none that ``save`` wrote."""
        try:
            content: Any = path.read_bytes()
            return msgspec.json.decode(content, type=cls)
        except OSError as error:
            raise UsageError(f"cannot read the profile {path}: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{path} is not a profile ({error}); measure one with `glinthawk profile`"
            ) from error
