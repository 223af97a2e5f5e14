"""A longer, or a narrower, link: a process that passes bytes on between two places, each some time
later, and no more than so many a second. A place is a Unix socket's path, or a ``host:port``."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

__all__ = ["Relay", "slow_link"]

_CHUNK = 1 << 20
_RETRY_S = 0.05
_GRACE_S = 5.0


class Relay:
    """The near end of a longer link. ``path`` is the socket that leads to the far end."""

    def __init__(self, path: Path, process: "subprocess.Popen[str]") -> None:
        self.path = path
        self._process = process

    def set_delay(self, delay_s: float) -> None:
        """What is sent from now on is ``delay_s`` away, in each direction."""
        self._order("delay_s", delay_s)

    def set_speed(self, bytes_per_s: float) -> None:
        """From now on so many bytes pass in a second, in each direction."""
        self._order("bytes_per_s", bytes_per_s)

    def _order(self, what: str, value: float) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what} {value}\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError("the relay between the tiers has ended")


@contextmanager
def slow_link(target: Path, delay_s: float) -> Iterator[Relay]:
    """A relay to ``target``, a socket that may not be there yet."""
    path = target.with_name(f"{target.name}.slow")
    command = [sys.executable, "-m", "glinthawk.bench.relay", str(path), str(target)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            relay = Relay(path, process)
            relay.set_delay(delay_s)
            yield relay
        finally:
            _end(process)
            path.unlink(missing_ok=True)


def _end(process: "subprocess.Popen[str]") -> None:
    """The end of its input ends a relay."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


class _Link:
    """Bytes on their way."""

    def __init__(self, target: str) -> None:
        self.delay_s = 0.0
        self.bytes_per_s = inf
        self._target = target

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # the relay ends, and its connections with it
            onward, back = await _reach(self._target)
            await asyncio.gather(self._pump(reader, back), self._pump(onward, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what is read, each piece when its time has come; reading never waits for that."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._write(pieces, writer))
        with suppress(ConnectionError):
            while piece := await reader.read(_CHUNK):
                pieces.put_nowait((loop.time() + self.delay_s, piece))
        pieces.put_nowait((loop.time() + self.delay_s, b""))
        with suppress(ConnectionError):
            await writing
        writer.close()

    async def _write(
        self, pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        piece, free_at = b"first", 0.0
        while piece:
            due, piece = await pieces.get()
            free_at = max(free_at, due) + len(piece) / self.bytes_per_s
            await asyncio.sleep(free_at - loop.time())
            writer.write(piece)
            await writer.drain()


async def _reach(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Whoever listens there may still be starting."""
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            if _is_path(target):
                return await asyncio.open_unix_connection(target, limit=_CHUNK)
            return await asyncio.open_connection(*target.rsplit(":", 1), limit=_CHUNK)
        await asyncio.sleep(_RETRY_S)


def _is_path(place: str) -> bool:
    return "/" in place


async def _relay(near: str, far: str) -> None:
    """Serve until standard input ends; each line there is an order, and answered by a line."""
    link = _Link(far)
    if _is_path(near):
        await asyncio.start_unix_server(link.connect, near, limit=_CHUNK)
    else:
        await asyncio.start_server(link.connect, *near.rsplit(":", 1), limit=_CHUNK)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := await orders.readline():
        what, value = line.decode().split()
        setattr(link, what, float(value))
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_relay(*sys.argv[1:]))
