"""The most resident memory of this process, as Linux counts it."""

from pathlib import Path

__all__ = ["peak_bytes", "reset_peak"]

_STATUS, _PEAK = Path("/proc/self/status"), "VmHWM"
#: What makes the kernel forget the peak: proc(5), clear_refs.
_FORGET_PEAK = "5"


def peak_bytes() -> int:
    """The most there was since ``reset_peak``."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{_PEAK}:"):
            return int(line.split()[1]) << 10  # kB
    raise OSError(f"{_STATUS} has no {_PEAK}")


def reset_peak() -> None:
    """The peak is what is there now. Raises OSError where the kernel cannot do that."""
    Path("/proc/self/clear_refs").write_text(_FORGET_PEAK)
