"""Nodes of a pipeline on this machine."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["node", "waiting_for", "write_cluster"]


def write_cluster(folder: Path, workers: list[int], tier1_kv: str = "0") -> str:
    """A cluster file of nodes on this machine, with so many workers each."""
    entries = [
        f'[[nodes]]\nworkers = ["local:{count}"]\nworker_kv = "1MiB"\ntier1_kv = "{tier1_kv}"\n'
        for count in workers
    ]
    path = folder / "cluster.toml"
    path.write_text("\n".join(entries))
    return str(path)


@contextmanager
def node(path: Path) -> Iterator[None]:
    """A node of this machine that was started by hand."""
    command = [sys.executable, "-m", "glinthawk", "node", "--quiet", "--threads", "1"]
    process = subprocess.Popen([*command, "--listen", f"ipc://{path}"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Until somebody listens there."""
    turn = threading.Event()
    while True:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(path))
            break
        turn.wait(0.05)
    yield
