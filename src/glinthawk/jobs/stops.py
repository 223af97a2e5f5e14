"""Where the first stop string of a text begins."""

from collections.abc import Iterable

__all__ = ["stop_start"]


def stop_start(text: str, stops: Iterable[str], immune: int) -> int | None:
    """Start of the earliest stop string that ends after the first ``immune`` characters, or None.

    >>> stop_start("a.b.c", ["."], immune=2)
    3
    """
    # The first place where a string of length n can end after ``immune`` is immune + 1.
    starts = [text.find(stop, max(0, immune - len(stop) + 1)) for stop in stops]
    return min((start for start in starts if start >= 0), default=None)
