"""A longer link: a process that passes bytes on between two Unix sockets, each some time later."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path

__all__ = ["relay", "slow_link"]

_CHUNK = 1 << 20
_START_S = 30.0
_RETRY_S = 0.05


@contextmanager
def slow_link(target: Path, delay_s: float) -> Iterator[Path]:
    """The path of a socket that leads to ``target``, ``delay_s`` away in each direction."""
    path = target.with_name(f"{target.name}.slow")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=relay, args=(path, target, delay_s, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(_START_S):
            raise TimeoutError(f"the relay did not listen within {_START_S:g} s")
        yield path
    finally:
        process.terminate()
        process.join()
        path.unlink(missing_ok=True)


def relay(
    path: Path | str, target: Path | str, delay_s: float = 0.0, ready: Event | None = None
) -> None:
    """Pass on between ``path`` and ``target`` for ever; set ``ready`` once it listens."""

    async def serve() -> None:
        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward, back = await _reach(Path(target))
            await asyncio.gather(_pump(reader, back, delay_s), _pump(onward, writer, delay_s))

        server = await asyncio.start_unix_server(connect, str(path), limit=_CHUNK)
        if ready is not None:
            ready.set()
        await server.serve_forever()

    asyncio.run(serve())


async def _reach(target: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Whoever listens there may still be starting."""
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(str(target), limit=_CHUNK)
        await asyncio.sleep(_RETRY_S)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass on what is read, each piece when its time has come; reading never waits for that."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - loop.time())
            writer.write(piece)
            await writer.drain()
            if not piece:
                return

    writing = asyncio.create_task(write())
    while piece := await reader.read(_CHUNK):
        pieces.put_nowait((loop.time() + delay_s, piece))
    pieces.put_nowait((loop.time() + delay_s, b""))
    with suppress(ConnectionError):
        await writing
        writer.close()
