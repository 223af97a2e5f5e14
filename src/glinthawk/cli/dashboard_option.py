"""``glinthawk run --dashboard``, with an address or without."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from glinthawk.core.errors import UsageError
from glinthawk.files.extras import load_extra

if TYPE_CHECKING:
    from rich.console import Console

    from glinthawk.engine.run import Run
    from glinthawk.jobs.job import Job

__all__ = ["check_dashboard", "showing"]

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\[\]]*):(\d{1,5})")
_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


def check_dashboard(address: str) -> tuple[str, int]:
    """Host and port. Raises UsageError for what is none, and where packages are missing."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65_535:
        raise UsageError(f"--dashboard: {address!r} is no HOST:PORT; give one like 127.0.0.1:8001")
    for package in _PACKAGES:
        load_extra(package, "--dashboard")
    return found[1].strip("[]") or "127.0.0.1", int(found[2])


@contextmanager
def showing(
    address: str | None, model: str, name: str, run: "Run", job: "Job", console: "Console"
) -> Iterator[None]:
    """The page while ``job`` is run, if there is an address for it."""
    if address is None:
        yield
        return
    from glinthawk.serve.dashboard import open_dashboard

    place = check_dashboard(address)
    with open_dashboard(*place, model, name, run, lambda: job.progress) as url:
        console.print(f"the run's page: {url}/")
        yield
