"""The most resident memory of this process and of those it started, as Linux counts it."""

from pathlib import Path

__all__ = ["peak_bytes", "peak_of_children"]

_PROC, _PEAK = Path("/proc"), "VmHWM"


def peak_bytes(process: int | str = "self") -> int:
    """The most there was since the process began, or had the kernel forget it."""
    status = _PROC / str(process) / "status"
    for line in status.read_text().splitlines():
        if line.startswith(f"{_PEAK}:"):
            return int(line.split()[1]) << 10  # kB
    raise OSError(f"{status} has no {_PEAK}")


def peak_of_children() -> int:
    """The most that the processes had, together, which this one started and which live."""
    threads = _PROC.glob("self/task/*/children")
    children = [int(child) for thread in threads for child in thread.read_text().split()]
    return sum(peak_bytes(child) for child in children)
