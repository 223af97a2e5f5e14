"""What memory of its machine a worker takes beside its KV cache."""

import os
from pathlib import Path

from glinthawk.core.units import format_size

__all__ = ["beside_kv", "describe_memory", "resident_bytes"]

#: Of a session: page tables, buffers of the kernels, answers.
_SESSION = 64 << 20


def beside_kv(window: int) -> int:
    """Bytes that a worker takes at most, as large as this process is now, with ``window`` bytes on
    their way to it. The longest message comes on top, twice: it may go beyond the window while
    another one is at hand."""
    return resident_bytes() + _SESSION + window


def describe_memory(window: int) -> str:
    """For who has to know whether a machine is large enough."""
    return (
        f"beside the KV cache up to {format_size(beside_kv(window))} of memory, "
        f"{format_size(window)} of them for messages on their way, and the longest message twice"
    )


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
