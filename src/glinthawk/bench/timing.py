"""Seconds of calls that take turns."""

import statistics
import time
from collections.abc import Callable

__all__ = ["medians", "seconds"]


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def medians(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call; one round runs each once, after a round that does not count."""
    times = [[seconds(call) for call in calls] for _ in range(rounds + 1)]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]
