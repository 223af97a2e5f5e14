"""tcp is CURVE or nothing: who does not know the worker, or is not known to it, gets nothing."""

from collections.abc import Iterator

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from glinthawk.core.errors import AddressError, WorkerLost
from glinthawk.wire.address import Address
from glinthawk.wire.channel import ClientChannel, ServerChannel
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Ask, FromTier1, Release, Stored, decode, encode
from wire_links import await_answer

WORKER, FRIEND, STRANGER = (Identity.create() for _ in range(3))
ANYWHERE = Address.parse("tcp://127.0.0.1:0")


@pytest.fixture
def server() -> Iterator[ServerChannel]:
    """A worker that only lets FRIEND in."""
    with ServerChannel(ANYWHERE, WORKER, [FRIEND.public]) as channel:
        channel.socket.rcvtimeo = 20_000
        yield channel


def _place(server: ServerChannel, key: str) -> Address:
    return Address.parse(f"{server.endpoint}?key={key}")


def _assert_only_the_friend_is_heard(server: ServerChannel) -> None:
    """What others sent would have come first."""
    with ClientChannel(_place(server, WORKER.public), FRIEND) as friend:
        friend.send(Release([42]))
        who, frames = server.receive()
        assert decode(frames[0], FromTier1) == Release([42])
        server.send(who, Stored(42))
        assert await_answer(friend)[0] == Stored(42)
    assert not server.socket.poll(0)


def test_who_has_both_keys_is_served(server: ServerChannel) -> None:
    _assert_only_the_friend_is_heard(server)


def test_who_does_not_know_the_workers_key_gets_nothing(server: ServerChannel) -> None:
    with ClientChannel(_place(server, STRANGER.public), FRIEND) as client:
        client.send(Ask())
        with pytest.raises(WorkerLost) as lost:
            await_answer(client)
    assert server.endpoint in str(lost.value)
    _assert_only_the_friend_is_heard(server)


def test_who_is_not_on_the_list_gets_nothing_and_is_told_what_to_do(
    server: ServerChannel,
) -> None:
    with ClientChannel(_place(server, WORKER.public), STRANGER) as client:
        client.send(Ask())
        with pytest.raises(WorkerLost, match=r"refused.*--allow.*keygen"):
            await_answer(client)
    _assert_only_the_friend_is_heard(server)


def test_who_only_borrowed_the_public_key_of_a_friend_gets_nothing(server: ServerChannel) -> None:
    """The public key of an allowed client is no secret; without its secret half it opens nothing"""
    thief = Identity(FRIEND.public, STRANGER.secret)
    with ClientChannel(_place(server, WORKER.public), thief) as client:
        client.send(Ask())
        with pytest.raises(WorkerLost):
            await_answer(client)
    _assert_only_the_friend_is_heard(server)


def test_a_plain_zeromq_socket_gets_nothing(server: ServerChannel) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        with raw.get_monitor_socket() as monitor:
            raw.connect(server.endpoint)
            raw.send(encode(Ask()))
            _await_failure(monitor)
            raw.disable_monitor()
        assert not raw.poll(0)
        _assert_only_the_friend_is_heard(server)
        assert not raw.poll(0)


def _await_failure(monitor: zmq.Socket[bytes]) -> None:
    failures = {
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_DISCONNECTED,
    }
    while monitor.poll(20_000):
        event = recv_monitor_message(monitor)["event"]
        assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
        if event in failures:
            return
    pytest.fail("the connection was not refused")


def test_a_user_reaches_his_own_worker_without_naming_its_key() -> None:
    with ServerChannel(ANYWHERE, WORKER, [WORKER.public]) as server:
        server.socket.rcvtimeo = 20_000
        with ClientChannel(Address.parse(server.endpoint), WORKER) as client:
            client.send(Ask())
            who, _ = server.receive()
            server.send(who, Stored(1))
            assert await_answer(client)[0] == Stored(1)


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:0", "tcp://0.0.0.0:0", "tcp://*:0"])
@pytest.mark.parametrize(("identity", "allow"), [(None, [FRIEND.public]), (WORKER, []), (None, [])])
def test_tcp_without_keys_or_without_a_list_is_refused(
    text: str, identity: Identity | None, allow: list[str]
) -> None:
    with pytest.raises(AddressError, match=r"--allow"):
        ServerChannel(Address.parse(text), identity, allow)
