"""How many single requests a server takes in and answers, where the engine takes no time."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

__all__ = ["ServingRow", "measure_serving", "run"]

_CONNECTIONS = 64
_BODY = json.dumps(
    {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is a list, and what is it good for?"}],
        "max_tokens": 8,
    }
).encode()
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY


@dataclass(frozen=True, slots=True)
class ServingRow:
    """``cpu_ms`` is of the server, for a request; wall times are of the client."""

    connections: int
    requests: int
    errors: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    loop: str


def run(say: Callable[[str], None], *, quick: bool, connections: int = _CONNECTIONS) -> None:
    """Chats over kept connections, each with the next request as soon as it has an answer."""
    row = measure_serving(1_000 if quick else 20_000, connections)
    say(f"{row.requests} requests over {connections} connections, {row.errors} errors")
    say(f"{row.requests_per_s:,.0f} requests/s, p50 {row.p50_ms:.1f} ms, p99 {row.p99_ms:.1f} ms")
    say(f"server: {row.cpu_ms:.2f} ms of processor time a request ({row.loop})")
    say(json.dumps(asdict(row)))


def measure_serving(num_requests: int, connections: int) -> ServingRow:
    """Against a server in a process of its own."""
    with _server() as (pid, port, loop):
        asyncio.run(_load(port, connections, 2 * connections))  # what is first is slow
        began, cpu = time.perf_counter(), _cpu_s(pid)
        times, errors = asyncio.run(_load(port, connections, num_requests))
        seconds, cpu = time.perf_counter() - began, _cpu_s(pid) - cpu
    cuts = statistics.quantiles(times, n=100)
    return ServingRow(
        connections,
        num_requests,
        errors,
        round(num_requests / seconds, 1),
        round(1e3 * cuts[49], 2),
        round(1e3 * cuts[98], 2),
        round(1e3 * cpu / num_requests, 3),
        loop,
    )


@contextmanager
def _server() -> Iterator[tuple[int, int, str]]:
    """Its process id, its port, and what its event loop is."""
    command = [sys.executable, "-m", "bench.stub_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port, loop = process.stdout.readline().split()
            yield process.pid, int(port), loop
        finally:
            process.terminate()


async def _load(port: int, connections: int, num_requests: int) -> tuple[list[float], int]:
    """Seconds of every request, and how many were not answered well."""
    left = iter(range(num_requests))
    times: list[float] = []
    errors = 0

    async def speak() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            began = time.perf_counter()
            writer.write(_REQUEST)
            errors += await _read_answer(reader) != 200
            times.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(speak() for _ in range(connections)))
    return times, errors


async def _read_answer(reader: asyncio.StreamReader) -> int:
    """Its status; the client shall take little beside the server."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length))
    return int(head[9:12])


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
