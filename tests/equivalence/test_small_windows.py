"""The backbone over links that hardly anything fits: every layout waits, and answers alike."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from drive_cases import check_answers, make_case

from cluster import open_cluster
from delayed_staging import LateStaging, often_late
from glinthawk.core.config import EngineConfig
from glinthawk.engine.run import open_run
from glinthawk.tier1.forward.graphs import GraphedPasses
from glinthawk.tier1.kv.link import Link
from glinthawk.tier1.xcache.rebuild import learn_rebuild
from glinthawk.tier1.xcache.share import XShare
from glinthawk.wire.client_channel import ClientChannel
from model_cases import Case, prompts_with_prefixes
from replay_recorder import TapeRecorder

#: Less than a step's keys of two rows in one layer, and less than any message.
_WINDOW, _TINY = 4096, 1


class _Scales:
    """What was sent, and how often a link was found full."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.largest = self.num_full = 0
        self._channels: set[ClientChannel] = set()
        self._send, self._is_full = ClientChannel.send, Link.is_full
        patch.setattr(ClientChannel, "send", lambda *given: self._weigh(*given))
        patch.setattr(Link, "is_full", property(self._look))

    @property
    def most(self) -> int:
        """Bytes under way on any link at any time."""
        return max(channel.window.most for channel in self._channels)

    def _weigh(self, channel: ClientChannel, *parcel: Any) -> int:
        num_bytes = self._send(channel, *parcel)
        self.largest = max(self.largest, num_bytes)
        self._channels.add(channel)
        return num_bytes

    def _look(self, link: Link) -> bool:
        is_full: bool = self._is_full.fget(link)  # type: ignore[attr-defined]
        self.num_full += is_full
        return is_full


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> _Scales:
    return _Scales(monkeypatch)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("model"), "llama")


_LAYOUTS: dict[str, dict[str, Any]] = {
    "whole sequences": {"workers": 2},
    "scarce memory": {"workers": 1, "worker_pages": 3},
    "beside Tier 1's own": {"workers": 2, "tier1_pages": 3},
    "heads": {"workers": 2, "split": "heads"},
    "tokens": {"workers": 3, "split": "tokens", "stripe_pages": 1},
    "fetched": {"workers": 2, "placement": "fetch"},
}


def _check(case: Case, folder: Path, scales: _Scales, window: int, **options: Any) -> None:
    with open_cluster(case.loaded, folder, batch_tokens=96, window=window, **options) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
        run.stats()
    assert answers == case.expected()
    assert scales.num_full > 0
    assert scales.most < window + scales.largest


@pytest.mark.parametrize("window", [_WINDOW, _TINY])
@pytest.mark.parametrize(("scheme", "in_flight"), [("inproc", 1), ("ipc", 3)])
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_every_layout_answers_as_the_model_does(
    case: Case,
    tmp_path: Path,
    scales: _Scales,
    layout: str,
    scheme: str,
    in_flight: int,
    window: int,
) -> None:
    options = {"scheme": scheme, "batches_in_flight": in_flight, **_LAYOUTS[layout]}
    _check(case, tmp_path, scales, window, **options)


def test_little_is_asked_for_at_a_time(
    case: Case, tmp_path: Path, scales: _Scales, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the pages that Tier 1 fetches, where one step's would be too much already."""
    monkeypatch.setattr("glinthawk.tier1.kv.fetching.LINK_WINDOW", 1)
    _check(case, tmp_path, scales, _WINDOW, batches_in_flight=3, placement="fetch")


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_beside_an_x_cache(tmp_path: Path, scales: _Scales, family: str) -> None:
    case = Case(tmp_path, family)
    share = XShare(0.5, learn_rebuild(case.loaded.model, case.loaded.spec))
    _check(case, tmp_path, scales, _TINY, scheme="ipc", batches_in_flight=2, x_share=share)


def test_kv_on_drives(tmp_path: Path, scales: _Scales) -> None:
    check_answers(make_case(tmp_path, "llama", num_long=4), tmp_path, window=_WINDOW)
    assert scales.num_full > 0
    assert scales.most < _WINDOW + scales.largest


@pytest.mark.parametrize("split", ["sequence", "heads", "tokens"])
def test_copies_that_are_late(case: Case, tmp_path: Path, scales: _Scales, split: str) -> None:
    stagings = (LateStaging(often_late(number)) for number in range(2))
    _check(
        case,
        tmp_path,
        scales,
        _WINDOW,
        scheme="ipc",
        workers=2,
        batches_in_flight=3,
        passes=GraphedPasses(case.loaded.model, TapeRecorder()),
        staging=lambda: next(stagings),
        split=split,
        stripe_pages=1,
    )


def test_prefixes_that_are_shared(tmp_path: Path, scales: _Scales) -> None:
    case = Case(tmp_path, "gemma2", prompts_with_prefixes())
    with open_cluster(case.loaded, tmp_path, batches_in_flight=2, window=_WINDOW) as run:
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        assert run.engine.scheduler.counts.shared_tokens > 0
    assert answers == case.expected()
    assert scales.num_full > 0


@contextmanager
def _process(role: str, socket: Path, *arguments: str) -> Iterator[str]:
    """One that was started by hand; its address."""
    address = f"ipc://{socket}"
    command = [sys.executable, "-m", "glinthawk", role, "--quiet", "--threads", "1"]
    process = subprocess.Popen([*command, "--listen", address, *arguments])
    try:
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("window", [_WINDOW, _TINY])
def test_a_pipeline_whose_nodes_and_workers_take_little(
    case: Case, tmp_path: Path, window: int
) -> None:
    options = ("--window", str(window))
    entries = []
    with ExitStack() as stack:
        for number in range(2):
            worker = _process("worker", tmp_path / f"worker{number}", "--kv", "1MiB", *options)
            node = _process("node", tmp_path / f"node{number}", *options)
            worker_address, node_address = map(stack.enter_context, (worker, node))
            entries.append(
                f'[[nodes]]\naddress = "{node_address}"\nworkers = ["{worker_address}"]\n'
                'tier1_kv = "0"\n'
            )
        cluster = tmp_path / "cluster.toml"
        cluster.write_text("".join(entries))
        config = EngineConfig(
            model=str(case.path), cluster=str(cluster), batch_tokens=96, batches_in_flight=4
        )
        run = stack.enter_context(open_run(config))
        answers = {s.id: s.output for s in run.engine.generate(case.requests())}
        run.engine.scheduler.validate()
    assert answers == case.expected()
