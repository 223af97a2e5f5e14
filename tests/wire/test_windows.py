"""Channels whose server takes its time: what is under way is bounded, and nobody waits for ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import IDENTITY
from glinthawk.core.errors import WireError
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.credit import Credit
from glinthawk.wire.messages import ReleaseKV, Store, Stored
from glinthawk.wire.server_channel import ServerChannel
from wire_links import SCHEMES, await_answer, listen_address

over_all = pytest.mark.parametrize("scheme", SCHEMES)
_WINDOW = 4096
_PATIENCE_S = 20


@contextmanager
def _link(scheme: str, folder: Path) -> Iterator[tuple[ServerChannel, ClientChannel]]:
    address = listen_address(scheme, folder)
    with ServerChannel(address, IDENTITY, [IDENTITY.public], window=_WINDOW) as server:
        place = Address.parse(server.endpoint)
        with ClientChannel(place, IDENTITY, silence_s=3.0) as client:
            yield server, client


def _take(server: ServerChannel) -> bytes:
    """One message; who sent it."""
    for _ in range(100):  # a beat may come before
        assert server.socket.poll(1000 * _PATIENCE_S)
        if (received := server.take()) is not None:
            return received[0]
    pytest.fail("nothing but beats")


def _await_room(client: ClientChannel) -> None:
    while not client.window.has_room():
        client.wait(_PATIENCE_S)
        assert client.receive() is None


def _send_what_fits(client: ClientChannel, frame: bytes) -> int:
    number = 0
    while client.window.has_room():
        client.send(Store(number, 0), [frame])
        number += 1
    return number


@over_all
@pytest.mark.parametrize("num_bytes", [10, 1000, 100_000])
def test_who_is_not_taken_from_has_no_room(scheme: str, tmp_path: Path, num_bytes: int) -> None:
    with _link(scheme, tmp_path) as (server, client):
        client.send(ReleaseKV([1]))
        assert not client.window.has_room()  # nothing is known of the other side
        _take(server)
        for _ in range(5):
            _await_room(client)
            sent = _send_what_fits(client, bytes(num_bytes))
            assert client.window.most < _WINDOW + num_bytes + 50
            for _ in range(sent):
                _take(server)


@over_all
def test_a_credit_that_was_lost_is_made_up_for(scheme: str, tmp_path: Path) -> None:
    with _link(scheme, tmp_path) as (server, client):
        client.send(ReleaseKV([1]))
        who = _take(server)
        _await_room(client)
        sent = _send_what_fits(client, bytes(1000))
        server._tell = lambda *_: None  # type: ignore[method-assign]
        for _ in range(sent):
            _take(server)
        server.send(who, Stored(0))
        await_answer(client)
        assert not client.window.has_room()
        del server._tell  # type: ignore[method-assign]
        while not client.window.has_room():  # the next beat
            client.wait(0.1)
            assert client.receive() is None
            if server.socket.poll(0):
                assert server.take() is None


@over_all
def test_nobody_asks_a_client_what_it_has_taken(scheme: str, tmp_path: Path) -> None:
    """Answers have no window: a credit from there changes nothing."""
    with _link(scheme, tmp_path) as (server, client):
        client.send(ReleaseKV([1]))
        who = _take(server)
        for window in (1, 1 << 60):
            client.socket.send(client._watch._tally.mark(Credit(1 << 62, window)))
            assert server.socket.poll(1000 * _PATIENCE_S)
            assert server.take() is None
        server.send(who, Stored(0))
        assert await_answer(client)[0] == Stored(0)


@over_all
def test_nonsense_is_an_error_that_names_who_said_it(scheme: str, tmp_path: Path) -> None:
    with _link(scheme, tmp_path) as (server, client):
        client.send(ReleaseKV([1]))
        who = _take(server)
        server._put(who, server._peer(who).tally.mark(Credit(1 << 40, _WINDOW)))
        with pytest.raises(WireError, match=f"{client.address.endpoint} counts what was not sent"):
            await_answer(client)
