"""What ran when, as a Chrome trace: open it at ui.perfetto.dev or chrome://tracing."""

import time
from pathlib import Path
from typing import Any, Protocol

import msgspec

__all__ = ["Trace", "Tracer"]


class Tracer(Protocol):
    """Is told of intervals as they end."""

    def add(self, process: str, lane: int, name: str, begin: float, seconds: float) -> None:
        """``begin`` and ``seconds`` are of one clock."""
        ...


class Trace:
    """Writes intervals as they end. A process is a tier or worker, a lane is a batch in flight.

    The file is a JSON array without its closing bracket until ``close``; viewers read it even if a
    run was killed before. ``begun`` is the clock's reading at the start; None is now, by
    ``time.perf_counter``.
    """

    def __init__(self, path: Path, begun: float | None = None) -> None:
        self._file = path.open("wb")
        self._file.write(b"[")
        self._processes: dict[str, int] = {}
        self._begun = time.perf_counter() if begun is None else begun
        self._separator = b"\n"

    def add(self, process: str, lane: int, name: str, begin: float, seconds: float) -> None:
        """An interval; ``begin`` is a reading of the clock."""
        self._write(
            {
                "ph": "X",
                "name": name,
                "pid": self._number(process),
                "tid": lane,
                "ts": round(1e6 * (begin - self._begun), 1),
                "dur": round(1e6 * seconds, 1),
            }
        )

    def close(self) -> None:
        """End the array."""
        self._file.write(b"\n]\n")
        self._file.close()

    def _number(self, process: str) -> int:
        if process not in self._processes:
            self._processes[process] = number = len(self._processes)
            naming = {"ph": "M", "name": "process_name", "pid": number, "args": {"name": process}}
            self._write(naming)
        return self._processes[process]

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(self._separator + msgspec.json.encode(event))
        self._separator = b",\n"
