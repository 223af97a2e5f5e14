"""Waiting for something to become true, however long that takes on the machine at hand."""

import threading
import time
from collections.abc import Callable

__all__ = ["wait_until"]

_GIVE_UP_S = 600


def wait_until(holds: Callable[[], bool]) -> None:
    """Return once ``holds()``; fail after ten minutes."""
    deadline = time.monotonic() + _GIVE_UP_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        pause.wait(0.005)
