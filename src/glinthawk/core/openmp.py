"""The OpenMP runtime that torch has loaded: its threads can be borrowed."""

import ctypes
import functools
import re
from pathlib import Path

__all__ = ["find_team"]

_MAPS = Path("/proc/self/maps")
_RUNTIME = re.compile(r"\S*/lib(?:gomp|iomp5|omp)\b\S*\.so\S*")


@functools.cache
def find_team() -> tuple[int, int]:
    """Addresses of ``GOMP_parallel`` and ``omp_get_thread_num``; (0, 0) where there are none.

    Waiting OpenMP threads look for work for milliseconds before they sleep. Threads of ours beside
    them would get half a core each.
    """
    try:
        paths = sorted(set(_RUNTIME.findall(_MAPS.read_text())))
    except OSError:
        return 0, 0
    if len(paths) != 1:  # none, or more than one and no way to tell which is torch's
        return 0, 0
    try:
        runtime = ctypes.CDLL(paths[0])
        return _address(runtime.GOMP_parallel), _address(runtime.omp_get_thread_num)
    except (OSError, AttributeError):
        return 0, 0


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
