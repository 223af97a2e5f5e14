"""Where a disturbed job's KV lies, what serves it, and how links to that are made to be cut."""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from commands import glinthawk
from monkey import Supervised, run_and_actors, run_and_descendants

__all__ = ["LAYOUTS", "Layout", "Served", "serve"]

_FLOAT32 = ("--dtype", "float32")
_SERVER = (sys.executable, "-m", "glinthawk")
#: Nobody calls from these addresses, so that a port which is free here stays free.
_SERVERS_HOST, _RELAYS_HOST = "127.0.0.2", "127.0.0.3"


@dataclass(frozen=True)
class Layout:
    """KV is at workers behind links that may be cut, and at what ``more`` says."""

    name: str
    more: tuple[object, ...] = ()
    #: Behind links; started and served by the test.
    workers: int = 2
    nodes: int = 0
    kv: str = "64MiB"
    has_drives: bool = False
    #: Links are TCP with CURVE, else Unix sockets.
    is_remote: bool = False
    #: Each of the ``workers`` has a node, which the run starts, with two workers of its own.
    has_local_nodes: bool = False
    #: What makes its answers the same whatever happens.
    exact: tuple[object, ...] = _FLOAT32
    #: Which processes may be disturbed, of a run by its number.
    victims: Callable[[int], list[int]] = run_and_descendants


LAYOUTS = [
    Layout("two nodes, three workers each", has_local_nodes=True),
    Layout("workers", ("--tier2", "local:1", "--worker-kv", "64MiB")),
    Layout("heads", ("--split-attention", "heads")),
    Layout("hybrid", ("--tier1-kv", "2MiB")),
    Layout("drives", kv="1MiB", has_drives=True),
    Layout("x-cache", ("--xcache", 0.5)),
    Layout("tokens", ("--split-attention", "tokens")),
    # One that is stopped for long is silent for too long here.
    Layout("three CURVE links", ("--worker-timeout", 4), workers=3, is_remote=True),
    Layout("CURVE links to and between nodes", nodes=2, is_remote=True),
    Layout(
        "Ray",
        ("--cluster", "ray", "--slices", 2, "--workers-per-slice", 2, "--worker-kv", "64MiB"),
        workers=0,
        victims=run_and_actors,
    ),
    Layout("batch-invariant", exact=("--dtype", "bfloat16", "--batch-invariant")),
]


@dataclass
class Served:
    """What a layout needs beside the run: its arguments, and processes that may be disturbed."""

    arguments: list[object]
    processes: list[Supervised] = field(default_factory=list)


@contextmanager
def serve(layout: Layout, folder: Path) -> Iterator[Served]:
    """All of it, until the block ends."""
    with ExitStack() as stack:
        served = Served([*layout.exact, *layout.more])
        place = _remote_place if layout.is_remote else _local_place
        drive = ["--storage", f"{folder}:64MiB"] if layout.has_drives else []
        workers, nodes = [], []
        for name in (f"worker{number}" for number in range(layout.workers)):
            options = ["worker", "--kv", layout.kv, *drive]
            workers.append(_behind_relay(stack, served, folder / name, options, place))
        for name in (f"node{number}" for number in range(layout.nodes)):
            nodes.append(_behind_relay(stack, served, folder / name, ["node"], place))
        if nodes or layout.has_local_nodes:
            served.arguments += ["--cluster", _write_cluster(folder, nodes, workers)]
        else:
            served.arguments += [word for worker in workers for word in ("--tier2", worker)]
        yield served


@dataclass(frozen=True)
class _Place:
    """Where a server listens and a relay before it, as the relay calls both; the addresses that
    the server is told and the run; and who may connect."""

    server: str
    relay: str
    listen: str
    address: str
    allow: tuple[str, ...] = ()


def _local_place(path: Path) -> _Place:
    link = path.with_suffix(".link")
    return _Place(str(path), str(link), f"ipc://{path}", f"ipc://{link}")


def _remote_place(_path: Path) -> _Place:
    server, relay = (_free_port(host) for host in (_SERVERS_HOST, _RELAYS_HOST))
    key = glinthawk("keygen").stdout.split()[-1]
    return _Place(server, relay, f"tcp://{server}", f"tcp://{relay}?key={key}", ("--allow", key))


def _free_port(host: str) -> str:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _behind_relay(
    stack: ExitStack,
    served: Served,
    path: Path,
    options: list[object],
    place_at: Callable[[Path], _Place],
) -> str:
    """A server, and a link to it that is cut by killing the relay; the link's address."""
    place = place_at(path)
    options = [*options, "--quiet", "--threads", 1, "--listen", place.listen, *place.allow]
    relay = (sys.executable, "-m", "glinthawk.bench.relay", place.relay, place.server)
    for name, command in ((path.name, (*_SERVER, *options)), (f"{path.name}.relay", relay)):
        process = Supervised(path.with_name(f"{name}.log"), *command)
        stack.callback(process.end)
        served.processes.append(process)
    return place.address


def _write_cluster(folder: Path, nodes: list[str], workers: list[str]) -> Path:
    """Nodes that are served, each with a worker; or a local one for each worker."""
    entries = [f"[[nodes]]\naddress = {json.dumps(node)}\n" for node in nodes]
    entries = entries or ['[[nodes]]\nworker_kv = "64MiB"\n'] * len(workers)
    own = [] if nodes else ["local:2"]
    path = folder / "cluster.toml"
    path.write_text(
        "".join(
            f"{entry}workers = {json.dumps([*own, worker])}\n"
            for entry, worker in zip(entries, workers, strict=True)
        )
    )
    return path
