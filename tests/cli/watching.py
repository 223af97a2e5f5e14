"""Waiting for something to become true, however long that takes on the machine at hand."""

import threading
import time
from collections.abc import Callable

__all__ = ["wait_until"]

_GIVE_UP_S = 600
_SOONEST_S, _LATEST_S = 0.005, 0.05


def wait_until(holds: Callable[[], bool]) -> None:
    """Return once ``holds()``; fail after ten minutes. What takes long is asked for more rarely:
    who asks all the time takes the cores from what is waited for."""
    begun, pause = time.monotonic(), threading.Event()
    while not holds():
        waited = time.monotonic() - begun
        assert waited < _GIVE_UP_S, "it never happened"
        pause.wait(min(max(_SOONEST_S, waited / 40), _LATEST_S))
