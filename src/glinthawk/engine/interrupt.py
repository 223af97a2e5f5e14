"""Ctrl-C: the first one drains, the second one stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["drain_on_interrupt"]


@contextmanager
def drain_on_interrupt(drain: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Call ``drain`` at the first SIGINT or SIGTERM, raise KeyboardInterrupt at the second.

    Yields a function that says whether there was a first.
    """
    seen = 0

    def on_signal(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            raise KeyboardInterrupt
        drain()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in signals]
    try:
        yield lambda: seen > 0
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
