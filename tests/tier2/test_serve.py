"""A worker's loop ends when it is told to, and never otherwise."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from cluster import IDENTITY, worker_thread
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.server import serve
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import VERSION, Ask, Fault, FromWorker, Open, Opened
from glinthawk.wire.server_channel import ServerChannel

_PATIENCE_S = 60
LAYER = AttentionLayer(1, 1, 4, 4, 1.0)


def _ask(client: ClientChannel) -> FromWorker:
    """An answer proves that the worker lives."""
    client.send(Ask())
    return _answer(client)


def _answer(client: ClientChannel) -> FromWorker:
    while (received := client.receive()) is None:
        assert client.socket.poll(_PATIENCE_S * 1000), "no answer"
    return received[0]


def test_a_worker_process_lives_as_long_as_its_pipe(tmp_path: Path) -> None:
    folder = tmp_path / "glinthawk-run-test"
    folder.mkdir()
    address = Address.parse(f"ipc://{folder}/worker.sock")
    command = [sys.executable, "-m", "glinthawk", "worker", "--lifeline", "--threads", "1"]
    command += ["--listen", address.endpoint, "--kv", "1MiB", "--quiet"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with worker, ClientChannel(address) as client:
        assert isinstance(_ask(client), Fault)
        assert worker.poll() is None
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(_PATIENCE_S) == 0
        assert worker.stderr is not None
        assert worker.stderr.read() == ""
    assert not folder.exists()


def test_only_the_end_of_the_pipe_ends_a_worker(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with ServerChannel(Address.parse(f"ipc://{tmp_path}/worker"), None, []) as channel:
        options = {"lifeline": reader}
        thread = threading.Thread(target=serve, args=(channel, 1 << 16), kwargs=options)
        thread.start()
        try:
            with ClientChannel(channel.address) as client:
                os.write(writer, b"still here")
                assert isinstance(_ask(client), Fault)
        finally:
            os.close(writer)
            thread.join(_PATIENCE_S)
            os.close(reader)
        assert not thread.is_alive()


def test_a_worker_serves_one_run_after_another(tmp_path: Path) -> None:
    """A session whose client has gone is given up for the next client."""
    with worker_thread("ipc", tmp_path, 1 << 16) as address:
        for _ in range(3):
            with ClientChannel(address, IDENTITY) as client:
                _await_open(client)


def _await_open(client: ClientChannel) -> None:
    """The worker hears of the end of a connection a moment later than of a new one."""
    for _ in range(2000):
        client.send(Open(VERSION, [LAYER], "float32", "float32"))
        answer = _answer(client)
        if isinstance(answer, Opened):
            return
        assert isinstance(answer, Fault)
        assert answer.refused
        client.socket.poll(10)
    raise AssertionError("the worker never let go of a client that has gone")


def test_a_client_that_is_still_there_keeps_the_worker(tmp_path: Path) -> None:
    with (
        worker_thread("ipc", tmp_path, 1 << 16) as address,
        ClientChannel(address, IDENTITY) as first,
        ClientChannel(address, IDENTITY) as second,
    ):
        _await_open(first)
        second.send(Open(VERSION, [LAYER], "float32", "float32"))
        answer = _answer(second)
        assert isinstance(answer, Fault)
        assert answer.refused
        assert not isinstance(_ask(first), Fault)
