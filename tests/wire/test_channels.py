"""Channels: the same behaviour over inproc, ipc and tcp."""

import contextlib
import gc
import os
import threading
import warnings
from pathlib import Path

import msgspec
import pytest
import zmq

from cluster import IDENTITY
from glinthawk.core.errors import AddressError, WireError, WorkerLost
from glinthawk.wire import server_channel
from glinthawk.wire.address import Address
from glinthawk.wire.client_channel import ClientChannel
from glinthawk.wire.messages import (
    Ask,
    Attend,
    Attended,
    Fault,
    FromTier1,
    Ping,
    ReleaseKV,
    Stored,
    decode,
    encode,
)
from glinthawk.wire.server_channel import ServerChannel
from glinthawk.wire.tally import Tally
from wire_links import SCHEMES, await_answer, link, listen, listen_address

over_all = pytest.mark.parametrize("scheme", SCHEMES)
between_processes = pytest.mark.parametrize("scheme", ("ipc", "tcp"))


@over_all
def test_a_message_and_its_answer_arrive(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        client.send(Attend(3, 4), [b"query", b"key", b"value"])
        who, frames = server.receive()
        assert decode(frames[0], FromTier1) == Attend(3, 4)
        assert [bytes(frame) for frame in frames[1:]] == [b"query", b"key", b"value"]
        assert server.send(who, Attended(3, 4, 5), [b"output"])
        message, answer, _ = await_answer(client)
        assert message == Attended(3, 4, 5)
        assert [bytes(frame) for frame in answer] == [b"output"]


@over_all
def test_messages_keep_their_order(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        for number in range(200):
            client.send(ReleaseKV([number]))
        arrived = [decode(server.receive()[1][0], FromTier1) for _ in range(200)]
        assert arrived == [ReleaseKV([number]) for number in range(200)]


@over_all
def test_large_and_empty_frames_arrive_intact(scheme: str, tmp_path: Path) -> None:
    sent = [os.urandom(9_000_000), b"", os.urandom(1), os.urandom(70_001)]
    with link(scheme, tmp_path) as (server, client):
        client.send(Attend(0, 0), [memoryview(frame) for frame in sent])
        who, frames = server.receive()
        assert [bytes(frame) for frame in frames[1:]] == sent
        server.send(who, Attended(0, 0, 5), frames[1:])
        assert [bytes(frame) for frame in await_answer(client)[1]] == sent


@over_all
def test_the_bytes_counted_are_those_of_the_frames(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        words = memoryview(bytearray(4000)).cast("I")  # 1000 items of 4 bytes
        sent = client.send(Attend(7, 1), [b"12345", words])
        assert sent == len(Tally().stamp(Attend(7, 1))) + 4005
        who, frames = server.receive()
        assert sum(frame.nbytes for frame in frames) == len(encode(Attend(7, 1))) + 4005
        server.send(who, Attended(7, 1, 5), [bytes(333)])
        assert await_answer(client)[2] == len(Tally().stamp(Attended(7, 1, 5))) + 333


@over_all
def test_an_answer_goes_to_who_asked(scheme: str, tmp_path: Path) -> None:
    with (
        link(scheme, tmp_path) as (server, first),
        ClientChannel(Address.parse(server.endpoint), IDENTITY) as second,
    ):
        first.send(ReleaseKV([1]))
        second.send(ReleaseKV([2]))
        for _ in range(2):
            who, frames = server.receive()
            (number,) = decode(frames[0], FromTier1).sequences  # type: ignore[union-attr]
            server.send(who, Stored(number))
        assert await_answer(first)[0] == Stored(1)
        assert await_answer(second)[0] == Stored(2)
        assert first.receive() is None


@over_all
def test_nothing_to_receive_is_none(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (_, client):
        assert client.receive() is None


@over_all
def test_what_is_sent_before_the_server_listens_is_kept(scheme: str, tmp_path: Path) -> None:
    address = listen_address(scheme, tmp_path)
    if scheme == "tcp":  # a port that is free
        with ServerChannel(address, IDENTITY, [IDENTITY.public]) as server:
            address = Address.parse(server.endpoint)
    with ClientChannel(address, IDENTITY) as client:
        client.send(ReleaseKV([5]))
        with ServerChannel(address, IDENTITY, [IDENTITY.public]) as server:
            server.socket.rcvtimeo = 20_000
            assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([5])


@over_all
def test_a_server_notices_that_a_client_has_gone(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server:
        with ClientChannel(Address.parse(server.endpoint), IDENTITY) as client:
            client.send(Ask())
            who, _ = server.receive()
            assert server.send(who, Ping())
        for _ in range(2000):
            if not server.send(who, Ping()):
                break
            server.socket.poll(10)  # lets the I/O thread bring the news
        else:
            pytest.fail("the server still believes in its client")


@over_all
def test_nobody_of_an_unknown_name_is_there(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server:
        assert not server.send(b"nobody", Ping())


@between_processes
def test_a_client_notices_that_the_server_goes_away(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        client.send(Ask())
        who, _ = server.receive()
        server.send(who, Stored(1))
        assert await_answer(client)[0] == Stored(1)
        server.close()
        with pytest.raises(WorkerLost, match=r"broke") as lost:
            await_answer(client)
        assert client.address.endpoint in str(lost.value)


@between_processes
def test_what_came_before_the_end_is_still_read(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        client.send(Ask())
        who, _ = server.receive()
        server.send(who, Fault("last words"))
        assert client.socket.poll(20_000)
        server.close()
        monitor = client.sockets[1]
        assert monitor.poll(20_000)
        assert await_answer(client)[0] == Fault("last words")
        with pytest.raises(WorkerLost):
            await_answer(client)


def _until_lost(server: ServerChannel, client: ClientChannel) -> WorkerLost:
    """Both ends listen until the client knows better; what comes is thrown away."""
    for _ in range(20_000):
        if server.socket.poll(1):
            server.take()
        try:
            client.receive()
        except WorkerLost as lost:
            return lost
    pytest.fail("nobody has noticed")


def _hasty(server: ServerChannel) -> ClientChannel:
    """A client that asks often whether anything is lost."""
    return ClientChannel(Address.parse(server.endpoint), IDENTITY, silence_s=3.0)


@over_all
def test_a_question_that_was_lost_behind_all_others_is_missed(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server, _hasty(server) as client:
        client.send(ReleaseKV([0]))
        client._watch.stamp(ReleaseKV([1]))  # counted, and swallowed
        lost = _until_lost(server, client)
        assert f"message 1 to {client.address.endpoint} was lost" in str(lost)


@over_all
def test_an_answer_that_was_lost_behind_all_others_is_missed(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server, _hasty(server) as client:
        client.send(Ask())
        who, _ = server.receive()
        server._peer(who).tally.stamp(Stored(1))
        lost = _until_lost(server, client)
        assert f"message 0 from {client.address.endpoint} was lost" in str(lost)


@over_all
def test_what_follows_a_lost_question_is_not_delivered(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server, _hasty(server) as client:
        client.send(ReleaseKV([0]))
        client._watch.stamp(ReleaseKV([1]))
        for number in range(2, 5):
            client.send(ReleaseKV([number]))
        assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([0])
        for _ in range(3):
            assert server.socket.poll(20_000)
            assert server.take() is None
        with pytest.raises(WorkerLost, match="message 1 to"):
            await_answer(client)


@over_all
def test_a_client_that_says_nothing_more_is_settled(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server, _hasty(server) as client:
        client.send(ReleaseKV([0]))
        assert not client.is_settled
        for _ in range(20_000):
            if server.socket.poll(1):
                server.take()
            assert client.receive() is None
            if client.is_settled:
                break
        assert client.idle is not None


@over_all
def test_a_client_that_takes_no_answers_learns_of_the_gap(scheme: str, tmp_path: Path) -> None:
    """An answer for which there is no room is not forgotten silently."""
    with listen(scheme, tmp_path) as server, _hasty(server) as client:
        client.send(Ask())
        who, _ = server.receive()
        put, server._put = server._put, lambda *_: False  # type: ignore[method-assign]
        assert not server.send(who, Stored(1))
        server._put = put  # type: ignore[method-assign]
        server.send(who, Stored(2))
        with pytest.raises(WorkerLost, match="message 0 from"):
            await_answer(client)


@over_all
def test_of_many_clients_the_one_that_was_silent_longest_is_forgotten(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told that something is missing, and may come again."""
    monkeypatch.setattr(server_channel, "_MOST_CLIENTS", 2)
    with listen(scheme, tmp_path) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_hasty(server)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(ReleaseKV([number]))
            assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([number])
        clients[2].send(ReleaseKV([5]))
        assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([5])
        clients[0].send(ReleaseKV([3]))
        assert server.socket.poll(20_000)
        assert server.take() is None
        with pytest.raises(WorkerLost, match="message 0 to"):
            await_answer(clients[0])


@over_all
@pytest.mark.parametrize("fields", [[], ["beat"], ["beat", "now"], ["beat", -1, [], 5], ["ask"], 7])
def test_a_beat_that_is_none_disturbs_nobody(scheme: str, tmp_path: Path, fields: object) -> None:
    with link(scheme, tmp_path) as (server, client):
        client.socket.send(msgspec.msgpack.encode([-1, fields]))
        assert server.socket.poll(20_000)
        assert server.take() is None
        client.send(ReleaseKV([1]))
        assert decode(server.receive()[1][0], FromTier1) == ReleaseKV([1])


@over_all
def test_garbage_from_a_worker_is_a_wire_error(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        client.send(Ask())
        who, _ = server.receive()
        server.socket.send_multipart([who, b"garbage"])
        with pytest.raises(WireError):
            await_answer(client)


@over_all
def test_wait_returns_when_a_message_is_there(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        client.send(Ask())
        server.send(server.receive()[0], Ping())
        while (received := client.receive()) is None:
            client.wait(20)
        assert received[0] == Ping()


@pytest.mark.parametrize("scheme", ("inproc", "tcp"))
def test_two_servers_cannot_share_an_address(scheme: str, tmp_path: Path) -> None:
    with listen(scheme, tmp_path) as server:
        address = Address.parse(server.endpoint)
        with pytest.raises(AddressError, match="cannot listen"):
            ServerChannel(address, IDENTITY, [IDENTITY.public])


@pytest.mark.parametrize("text", ["ipc:///no/such/folder/socket", "ipc:///tmp/" + "long" * 40])
def test_a_place_where_nobody_can_listen_is_an_address_error(text: str) -> None:
    with pytest.raises(AddressError, match="cannot listen"):
        ServerChannel(Address.parse(text), None, [])


def test_a_port_of_zero_becomes_a_number(tmp_path: Path) -> None:
    with listen("tcp", tmp_path) as server:
        assert int(server.endpoint.rsplit(":", 1)[1]) > 0


def test_zeromq_holds_nothing_back() -> None:
    """Frames beyond any high-water mark wait; they are never dropped."""
    with ClientChannel(Address.parse("inproc://high-water"), None) as client:
        assert client.socket.get(zmq.SNDHWM) == client.socket.get(zmq.RCVHWM) == 0
        for number in range(5_000):
            client.send(ReleaseKV([number]))
        with ServerChannel(Address.parse("inproc://high-water"), None, []) as server:
            last = [server.receive()[1][0] for _ in range(5_000)][-1]
            assert decode(last, FromTier1) == ReleaseKV([4_999])


def test_a_restarted_worker_takes_its_ipc_path_over(tmp_path: Path) -> None:
    """A worker that was killed leaves its socket behind; the next one listens there all the same"""
    with listen("ipc", tmp_path) as server:
        address = Address.parse(server.endpoint)
    socket_file = Path(address.endpoint.removeprefix("ipc://"))
    socket_file.touch()
    with ServerChannel(address, None, []) as server, ClientChannel(address) as client:
        server.socket.rcvtimeo = 20_000
        client.send(Ask())
        assert server.receive()[1][0] == encode(Ask())


@between_processes
def test_closing_twice_does_no_harm(scheme: str, tmp_path: Path) -> None:
    with link(scheme, tmp_path) as (server, client):
        server.close()
        client.close()


def _send_until_lost(client: ClientChannel) -> None:
    with contextlib.suppress(WorkerLost):
        while True:
            client.send(Ask())
            client.socket.poll(10)


def test_sending_to_a_server_that_is_gone_never_blocks(tmp_path: Path) -> None:
    with link("inproc", tmp_path) as (server, client):
        client.send(Ask())
        server.receive()
        server.close()
        sender = threading.Thread(target=_send_until_lost, args=(client,), daemon=True)
        sender.start()
        sender.join(60)
        assert not sender.is_alive(), "it hangs"


@pytest.mark.parametrize("text", ["ipc:///tmp/" + "long" * 40, "tcp://no such host:9"])
def test_a_place_that_cannot_be_reached_at_all_is_an_address_error(text: str) -> None:
    assert _failure_to_connect(text) is AddressError


def _failure_to_connect(text: str) -> type[Exception] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a socket that stays open
        try:
            ClientChannel(Address.parse(text), IDENTITY).close()
        except (zmq.ZMQError, AddressError) as error:
            kind = type(error)
            del error
            gc.collect()
            return kind
    return None
