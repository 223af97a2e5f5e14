"""tcp is CURVE or nothing: who does not know the worker, or is not known to it, gets nothing.

tcp+plain is a password or nothing; and nobody takes over another's name.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from glinthawk.core.errors import AddressError, WorkerLost
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.gate import KnownKeys, Password
from glinthawk.wire.keys import Identity, load_password
from glinthawk.wire.messages import Ask, FromTier1, ReleaseKV, Stored, decode, encode
from glinthawk.wire.server_channel import ServerChannel
from raw_peer import RawPeer
from wire_links import await_answer, link

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
        friend.send(ReleaseKV([42]))
        who, frames = server.receive()
        assert decode(frames[0], FromTier1) == ReleaseKV([42])
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


PASSWORD = "correct horse+battery"


@pytest.fixture
def plain_server() -> Iterator[ServerChannel]:
    """A worker that lets in who knows the password."""
    place = Address.parse("tcp+plain://127.0.0.1:0")
    with ServerChannel(place, password=PASSWORD) as channel:
        channel.socket.rcvtimeo = 20_000
        yield channel


def _with_password(server: ServerChannel, password: str) -> Address:
    return replace(Address.parse(server.endpoint), password=password)


def _assert_only_who_knows_the_password_is_heard(server: ServerChannel) -> None:
    with ClientChannel(_with_password(server, PASSWORD)) as friend:
        friend.send(ReleaseKV([42]))
        who, frames = server.receive()
        assert decode(frames[0], FromTier1) == ReleaseKV([42])
        server.send(who, Stored(42))
        assert await_answer(friend)[0] == Stored(42)
    assert not server.socket.poll(0)


def test_who_knows_the_password_is_served(plain_server: ServerChannel) -> None:
    assert plain_server.endpoint.startswith("tcp+plain://127.0.0.1:")
    _assert_only_who_knows_the_password_is_heard(plain_server)


@pytest.mark.parametrize("password", [PASSWORD[:-1], PASSWORD + "y", PASSWORD.upper(), "x"])
def test_who_does_not_gets_nothing_and_is_told_what_to_look_at(
    plain_server: ServerChannel, password: str
) -> None:
    with ClientChannel(_with_password(plain_server, password)) as client:
        client.send(Ask())
        with pytest.raises(WorkerLost, match=r"refused.*--password-file") as lost:
            await_answer(client)
        assert password not in str(lost.value)
    _assert_only_who_knows_the_password_is_heard(plain_server)


def test_a_key_opens_no_worker_that_wants_a_password(plain_server: ServerChannel) -> None:
    address = replace(Address.parse(plain_server.endpoint), scheme="tcp", key=WORKER.public)
    with ClientChannel(address, FRIEND) as client:
        client.send(Ask())
        with pytest.raises(WorkerLost):
            await_answer(client)
    _assert_only_who_knows_the_password_is_heard(plain_server)


def test_a_password_opens_no_worker_that_wants_a_key(server: ServerChannel) -> None:
    address = replace(Address.parse(server.endpoint), scheme="tcp+plain", password=PASSWORD)
    with ClientChannel(address) as client:
        client.send(Ask())
        with pytest.raises(WorkerLost):
            await_answer(client)
    _assert_only_the_friend_is_heard(server)


def test_a_plain_zeromq_socket_does_not_know_the_password(plain_server: ServerChannel) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        with raw.get_monitor_socket() as monitor:
            raw.connect(plain_server.endpoint.replace("tcp+plain", "tcp"))
            raw.send(encode(Ask()))
            _await_failure(monitor)
            raw.disable_monitor()
    _assert_only_who_knows_the_password_is_heard(plain_server)


def test_a_link_without_encryption_wants_its_password_on_both_ends() -> None:
    place = Address.parse("tcp+plain://127.0.0.1:0")
    with pytest.raises(AddressError, match="--password-file"):
        ServerChannel(place, WORKER, [FRIEND.public])
    with pytest.raises(AddressError, match="--password-file"):
        ServerChannel(replace(place, password="seen by all"), password="seen by all")
    with pytest.raises(AddressError, match=r"\?password="):
        ClientChannel(place)


def test_a_lock_opens_for_the_right_credentials_alone() -> None:
    keys, password = (
        KnownKeys([FRIEND.public]),
        Password("p\N{LATIN SMALL LETTER A WITH DIAERESIS}"),
    )
    assert keys.opens([bytes.fromhex(FRIEND.public)])
    assert not keys.opens([bytes.fromhex(STRANGER.public)])
    assert not keys.opens([FRIEND.public.encode()])
    assert password.opens([b"anybody", b"p\xc3\xa4"])
    assert not password.opens([b"p\xc3\xa4", b""])
    assert not password.opens([b"anybody", b"p\xe4"])


@pytest.mark.parametrize(("text", "password"), [("a b\n", "a b"), ("one\ntwo\n", "one")])
def test_a_password_file_is_its_first_line(tmp_path: Path, text: str, password: str) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    assert load_password(path) == password


@pytest.mark.parametrize("content", [None, b"", b"\n", b"  \n", b"\xff\xfe", b"x" * 256])
def test_a_password_file_without_a_password_is_an_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AddressError, match="password"):
        load_password(path)


def test_nobody_takes_over_the_name_of_another(tmp_path: Path) -> None:
    """A session belongs to a name that the worker gave; one that claims it is not heard."""
    with link("ipc", tmp_path) as (server, client):
        client.send(Ask())
        who, _ = server.receive()
        with closing(RawPeer(server.endpoint, name=who)) as thief:
            thief.send(encode(ReleaseKV([666])))
            for number in range(20):
                client.send(ReleaseKV([number]))
                name, frames = server.receive()
                assert (name, decode(frames[0], FromTier1)) == (who, ReleaseKV([number]))
                assert server.send(who, Stored(number))
                assert await_answer(client)[0] == Stored(number)


def test_a_frame_beyond_the_limit_breaks_its_senders_connection(tmp_path: Path) -> None:
    """Nor is memory taken for what is only claimed."""
    place = Address.parse(f"ipc://{tmp_path}/worker")
    with (
        ServerChannel(place, largest_frame=1 << 16) as server,
        ClientChannel(place) as client,
        closing(RawPeer(server.endpoint)) as liar,
    ):
        server.socket.rcvtimeo = 20_000
        liar.claim(1 << 62)
        assert liar.is_cut_off()
        client.send(ReleaseKV([1]), [bytes(1 << 15)])
        assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([1])
        client.send(ReleaseKV([2]), [bytes(1 << 17)])
        with pytest.raises(WorkerLost):
            await_answer(client)
        with ClientChannel(place) as another:
            another.send(ReleaseKV([3]))
            assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([3])


def test_frames_beyond_any_messages_are_thrown_away(tmp_path: Path) -> None:
    with link("ipc", tmp_path) as (server, client):
        client.send(ReleaseKV([1]), [b"frame"] * 10_000)
        client.send(ReleaseKV([2]))
        assert len(server.receive()[1]) < 10
        assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([2])
