"""Who may ask a run to be taken, and where it then looks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from glinthawk.cli.listening import ServerOptions
from glinthawk.cli.membership import announce_to, parse_place
from glinthawk.core.errors import UsageError, WorkerRefused
from glinthawk.launch.joiners import Joiners
from glinthawk.tier2.announcer import Announcer, reachable_address
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import VERSION, Announce, Fault

_RUN, _WORKER, _STRANGER = (Identity.create() for _ in range(3))
_ANYWHERE = Address.parse("tcp://127.0.0.1:0")


@pytest.fixture(scope="module")
def joiners() -> Iterator[Joiners]:
    with Joiners(_ANYWHERE, _RUN, [_WORKER.public]) as joiners:
        yield joiners


def _own(port: int, key: str = _WORKER.public) -> Address:
    return Address.parse(f"tcp://10.0.0.7:{port}?key={key}")


def _until_heard(joiners: Joiners, look: Announcer) -> list[Address]:
    """Asks as often as it takes."""
    while True:
        look.look(is_free=True)
        if arrived := joiners.arrived():
            return arrived


def test_an_allowed_worker_is_joined_where_it_listens(joiners: Joiners) -> None:
    with Announcer(Address.parse(joiners.place), _own(1), _WORKER) as announcer:
        assert _until_heard(joiners, announcer) == [_own(1)]


def test_a_worker_that_serves_somebody_does_not_ask(joiners: Joiners) -> None:
    ticks = iter(range(100))
    place = Address.parse(joiners.place)
    with Announcer(place, _own(2), _WORKER, lambda: 10.0 * next(ticks)) as announcer:
        announcer.look(is_free=False)
        assert announcer._channel is None


@pytest.mark.parametrize(
    "address",
    [_own(3, _STRANGER.public).text, "tcp://10.0.0.7:3", "ipc:///tmp/worker", "nowhere"],
    ids=["a stranger's key", "no key", "no port", "no address"],
)
def test_nobody_sends_a_run_to_who_has_no_allowed_key(joiners: Joiners, address: str) -> None:
    assert isinstance(_answer(joiners, _WORKER, Announce(VERSION, address)), Fault)


def test_another_version_is_refused_by_name(joiners: Joiners) -> None:
    fault = _answer(joiners, _WORKER, Announce(VERSION - 1, _own(4).text))
    assert isinstance(fault, Fault)
    assert f"the worker {VERSION - 1}" in fault.text


def test_a_worker_learns_why_it_is_not_taken(joiners: Joiners) -> None:
    place, own = Address.parse(joiners.place), _own(4, _STRANGER.public)
    refused = pytest.raises(WorkerRefused, match="key that is allowed")
    with Announcer(place, own, _WORKER) as announcer, refused:
        _until_heard(joiners, announcer)


def _answer(joiners: Joiners, who: Identity, message: Announce) -> object:
    with ClientChannel(Address.parse(joiners.place), who) as channel:
        channel.send(message)
        while (received := channel.receive()) is None:
            assert joiners.arrived() == []
        return received[0]


def test_a_stranger_is_not_heard(joiners: Joiners, caplog: pytest.LogCaptureFixture) -> None:
    with Announcer(Address.parse(joiners.place), _own(5), _STRANGER) as announcer:
        while "refused the connection" not in caplog.text:
            announcer.look(is_free=True)
            assert joiners.arrived() == []


def test_what_no_worker_can_join(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="where keys are checked"):
        parse_place("tcp+plain://127.0.0.1:9?password=secret")
    place = Address.parse(f"ipc://{tmp_path}/run")
    with pytest.raises(UsageError, match="--listen must be ipc"):
        announce_to(place, "tcp://127.0.0.1:7001", ServerOptions()).__enter__()


def test_a_worker_that_listens_everywhere_says_where_it_is_reached(tmp_path: Path) -> None:
    place = Address.parse(f"tcp://127.0.0.1:9?key={_RUN.public}")
    found = reachable_address("tcp://0.0.0.0:7001", _WORKER.public, place)
    assert found == Address.parse(f"tcp://127.0.0.1:7001?key={_WORKER.public}")
    socket = f"ipc://{tmp_path}/worker"
    assert reachable_address(socket, None, Address.parse(f"ipc://{tmp_path}/run")).text == socket
    with pytest.raises(UsageError, match=r"--listen tcp://0\.0\.0\.0:7001"):
        far = Address.parse(f"tcp://10.1.2.3:9?key={_RUN.public}")
        reachable_address("tcp://127.0.0.1:7001", _WORKER.public, far)
