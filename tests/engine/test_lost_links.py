"""A link between two nodes that breaks in mid-job: what was under way is stepped again."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from families import make_model
from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.engine.run import Run, open_run
from pipeline_nodes import node, waiting_for

_CHUNK = 1 << 16
_CUTS = (2, 7, 11)


class Relay:
    """Passes bytes on between two Unix sockets, and cuts connections when it is told."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def num_connections(self) -> int:
        """So far."""
        return len(self._ends)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._target))
                self._ends.append((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()

    def cut(self, index: int) -> None:
        """Bytes that are on their way are lost."""
        for end in self._ends[index]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for index in range(len(self._ends)):
            self.cut(index)
            for end in self._ends[index]:
                end.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_CHUNK):
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def _relay(path: Path, target: Path) -> Iterator[Relay]:
    with ExitStack() as stack:
        relay = Relay(path, target)
        stack.callback(relay.close)
        yield relay


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama")


def _requests() -> list[Request]:
    """Each a few steps longer than the one before, so that no two answers come together and many
    steps need the link between two cuts."""
    params = SamplingParams(temperature=0, max_tokens=90, ignore_eos=True)
    prompts = [tuple(range(3 + i, 12 + 2 * i)) for i in range(16)]
    return [Request(i, prompt, params, 0, 12 + 5 * i) for i, prompt in enumerate(prompts)]


def _answer(run: Run, relay: Relay | None = None) -> dict[int, list[int]]:
    """Cuts whatever connection of the relay is the youngest when so many answers are there: a step
    has just come through all of them, and more are to come."""
    found = {}
    for sequence in run.engine.generate(_requests()):
        found[sequence.request.id] = sequence.output
        if relay is not None and len(found) in _CUTS:
            relay.cut(relay.num_connections - 1)
    run.engine.scheduler.validate()
    return found


def test_the_job_goes_on_and_its_answers_are_the_same(model: Path, tmp_path: Path) -> None:
    with open_run(EngineConfig(model=str(model), tier1_kv="4MiB", batch_size=4)) as run:
        expected = _answer(run)
    cluster = tmp_path / "cluster.toml"
    addresses = (f"ipc://{tmp_path}/one", f"ipc://{tmp_path}/relay")
    cluster.write_text(
        "".join(f'[[nodes]]\naddress = "{a}"\ntier1_kv = "1MiB"\n' for a in addresses)
    )
    config = EngineConfig(model=str(model), cluster=str(cluster), batch_size=4)
    with (
        node(tmp_path / "one"),
        node(tmp_path / "two"),
        waiting_for(tmp_path / "two"),
        _relay(tmp_path / "relay", tmp_path / "two") as relay,
        open_run(config) as run,
    ):
        assert relay.num_connections == 2  # the engine's, and the first node's
        assert _answer(run, relay) == expected
        assert relay.num_connections >= 2 + len(_CUTS)
