"""Prompts by the gigabyte for workers that are stopped again and again: they wait at Tier 1, which
keeps no more than a window of them, and a worker's memory is what it says at its start."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from glinthawk.core.config import EngineConfig
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request
from glinthawk.core.units import parse_size
from glinthawk.engine.run import Run, open_run
from glinthawk.tier1.kv.link import Link
from glinthawk.tier1.node import Node
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.credit import Window

_WINDOW = 16 << 20
#: Keys and values of a prompt are 8 MiB a layer; they fill the worker's memory, and more are
#: under way at one time than it has beside that, if nobody bounds them.
_SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "head_dim": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 64,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
    "dtype": "bfloat16",
}
_PROMPT, _COUNT, _FEW, _NEW = 1000, 32, 8, 2
_KV = 512 << 20


def _nothing(_: str) -> None:
    pass


@dataclass
class _Worker:
    """A process, and what it says of its memory."""

    process: subprocess.Popen[str]
    address: str
    #: Bytes that it takes at most beside its KV cache, but for long messages.
    stated: int

    @property
    def peak(self) -> int:
        """Most bytes that it ever had in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])  # type: ignore[index]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def _worker(socket: Path) -> Iterator[_Worker]:
    address = f"ipc://{socket}"
    command = [sys.executable, "-m", "glinthawk", "worker", "--threads", "1", "--kv", str(_KV)]
    command += ["--listen", address, "--window", str(_WINDOW)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        stated = re.search(r"beside the KV cache up to (\S+ \S+) of memory", lines[2])
        assert stated is not None
        yield _Worker(process, address, parse_size(stated[1]))
    finally:
        process.kill()
        process.communicate()


class _Watch:
    """Weighs what is sent. Calls ``on_sent`` with the address for every message, ``on_full`` when
    rows have to wait for a link, ``on_wait`` when Tier 1 has nothing to do but to wait."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.largest = self.total = self.num_full = 0
        self.on_sent = self.on_full = self.on_wait = _nothing
        self._windows: set[Window] = set()
        self._send, self._is_full, self._collect = ClientChannel.send, Link.is_full, Node._collect
        patch.setattr(ClientChannel, "send", lambda *given: self._weigh(*given))
        patch.setattr(Node, "_collect", lambda *given: self._look(*given))
        patch.setattr(Link, "is_full", property(self._ask))

    @property
    def most(self) -> int:
        """Bytes under way on any link at any time."""
        return max(window.most for window in self._windows)

    def _weigh(self, channel: ClientChannel, *parcel: Any) -> int:
        num_bytes = self._send(channel, *parcel)
        self.largest, self.total = max(self.largest, num_bytes), self.total + num_bytes
        self._windows.add(channel.window)
        self.on_sent(channel.address.endpoint)
        return num_bytes

    def _look(self, node: Node, wait: bool, timeout_s: float | None) -> bool:
        if wait:
            self.on_wait("")
        return self._collect(node, wait, timeout_s)

    def _ask(self, link: Link) -> bool:
        is_full: bool = self._is_full.fget(link)  # type: ignore[attr-defined]
        if is_full:
            self.num_full += 1
            self.on_full(link.channel.address.endpoint)
        return is_full


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> _Watch:
    return _Watch(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wide")
    (folder / "config.json").write_text(json.dumps(_SHAPE))
    return str(folder)


def _config(model: str, *workers: _Worker, **options: Any) -> EngineConfig:
    return EngineConfig(
        model=model,
        load_format="dummy",
        tier2=tuple(worker.address for worker in workers),
        batch_size=8,
        batches_in_flight=16,
        **options,
    )


def _answer(run: Run, count: int = _COUNT) -> list[int]:
    """Lengths of answers."""
    params = SamplingParams(temperature=0, max_tokens=_NEW, ignore_eos=True)
    prompts = [tuple(3 + (7 * i + j) % 290 for j in range(_PROMPT)) for i in range(count)]
    requests = [Request(i, prompt, params, 0, _NEW) for i, prompt in enumerate(prompts)]
    return [len(sequence.output) for sequence in run.engine.generate(requests)]


def _stop_and_go(worker: _Worker, watch: _Watch) -> None:
    """It stops with every tenth message, and goes on when Tier 1 has done all it can."""
    sent = count(1)

    def stop(_: str) -> None:
        if next(sent) % 10 == 0:
            worker.stop()

    watch.on_sent, watch.on_wait = stop, lambda _: worker.go_on()


def test_a_worker_that_is_stopped_again_and_again_slows_tier_1(
    model: str, tmp_path: Path, watch: _Watch
) -> None:
    with _worker(tmp_path / "worker") as worker, open_run(_config(model, worker)) as run:
        _stop_and_go(worker, watch)
        lengths = _answer(run)
        watch.on_sent = _nothing
        worker.go_on()
        assert run.tier1.usage().kv_bytes_peak > 0.9 * _KV
        peak = worker.peak
    assert lengths == [_NEW] * _COUNT
    assert watch.num_full > 0
    assert watch.most < _WINDOW + watch.largest
    assert watch.total > 2 * worker.stated
    assert peak - _KV < worker.stated + 2 * watch.largest


def test_who_waits_for_a_worker_that_dies_goes_on_elsewhere(
    model: str, tmp_path: Path, watch: _Watch
) -> None:
    """Stopped with its first keys and values, killed when rows wait for it."""
    with (
        _worker(tmp_path / "one") as one,
        _worker(tmp_path / "two") as two,
        open_run(_config(model, one, two)) as run,
    ):
        victim = one

        def stop(address: str) -> None:
            if address == victim.address:
                victim.stop()

        def kill(address: str) -> None:
            if address == victim.address:
                victim.process.kill()

        watch.on_sent, watch.on_full = stop, kill
        lengths = _answer(run, _FEW)
        assert run.engine.scheduler.homes == [2]
    assert lengths == [_NEW] * _FEW
