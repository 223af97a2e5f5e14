"""The end of a channel that answers: a worker's, or a node's."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zmq

from glinthawk.core.config import LINK_WINDOW
from glinthawk.core.errors import AddressError, WireError
from glinthawk.wire.address import Address
from glinthawk.wire.channel import LARGEST_FRAME, Channel, Frame, receive_frames
from glinthawk.wire.credit import Credit, Intake
from glinthawk.wire.gate import Gate, KnownKeys, Lock, Password
from glinthawk.wire.keys import Identity
from glinthawk.wire.messages import Message, decode
from glinthawk.wire.tally import Beat, Gap, Missing, Tally, unpack

__all__ = ["ServerChannel"]

#: Answers that may wait for a client that does not take them.
_MOST_ANSWERS = 4096
#: Clients whose messages are counted; the one that was silent longest is forgotten for another.
_MOST_CLIENTS = 4096


@dataclass(slots=True)
class _Peer:
    """A client, as its server counts."""

    intake: Intake
    tally: Tally = field(default_factory=Tally)


class ServerChannel(Channel):
    """A worker's end. ``allow`` are the public keys of clients that may connect over tcp;
    ``password`` is what they must know over tcp+plain. Larger frames than ``largest_frame`` bytes
    break their sender's connection. ``window`` bytes may be on their way here from each client.
    ``progress`` may be replaced: it says (``moved``, ``idle``) of a Beat; by itself, a server has
    nothing to do when it has answered."""

    def __init__(
        self,
        address: Address,
        identity: Identity | None = None,
        allow: Sequence[str] = (),
        password: str | None = None,
        largest_frame: int = LARGEST_FRAME,
        window: int = LINK_WINDOW,
    ) -> None:
        lock = _choose_lock(address, identity, allow, password)
        super().__init__(address, zmq.ROUTER)
        self.progress: Callable[[], tuple[int, bool]] = lambda: (0, True)
        self.window = window
        self._peers: dict[bytes, _Peer] = {}
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.MAXMSGSIZE, largest_frame)
        self.socket.sndhwm = _MOST_ANSWERS
        if lock is not None:
            Gate(self._context, lock).guard(self.socket)
        if address.scheme == "tcp" and identity is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = identity.as_z85()
            self.socket.curve_server = True
        elif address.scheme == "tcp+plain":
            self.socket.plain_server = True
        try:
            self.socket.bind(address.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"cannot listen on {address.endpoint}: {error.strerror}") from error

    @property
    def endpoint(self) -> str:
        """Where it really listens: a port of 0 or ``*`` has become a number."""
        _, _, place = self.socket.get_string(zmq.LAST_ENDPOINT).partition("://")
        return f"{self.address.scheme}://{place}"

    def receive(self) -> tuple[bytes, list[memoryview]]:
        """(client, frames) of the next message; frames[0] is its header."""
        while (received := self._admit(receive_frames(self.socket))) is None:
            pass
        return received

    def take(self) -> tuple[bytes, list[memoryview]] | None:
        """As ``receive``, when the socket is readable; None if what came is for nobody but this
        channel, or came before. Never waits."""
        try:
            return self._admit(receive_frames(self.socket, zmq.NOBLOCK))
        except zmq.Again:
            return None

    def send(self, client: bytes, message: Message, frames: Sequence[Frame] = ()) -> bool:
        """Answer ``client``; False if it is no longer there, or takes no answers any more."""
        return self._put(client, self._peer(client).tally.stamp(message), frames)

    def _put(self, client: bytes, header: bytes, frames: Sequence[Frame] = ()) -> bool:
        """An answer that is not taken has its number all the same: the client will miss it."""
        try:
            self.socket.send_multipart([client, header, *frames], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._peers.pop(client, None)
                return False
            if error.errno == zmq.EAGAIN:
                return False
            raise
        return True

    def _peer(self, client: bytes) -> _Peer:
        peer = self._peers.pop(client, None) or _Peer(Intake(self.window))
        if len(self._peers) >= _MOST_CLIENTS:
            del self._peers[next(iter(self._peers))]
        self._peers[client] = peer  # the newest is the last
        return peer

    def _admit(self, received: list[memoryview]) -> tuple[bytes, list[memoryview]] | None:
        client, frames = bytes(received[0]), received[1:]
        numbered = unpack(frames[0]) if frames else None
        if numbered is None:
            return client, frames
        number, message = numbered
        peer = self._peer(client)
        try:
            is_next = peer.tally.admits(number)
        except Missing as missing:
            self._put(client, peer.tally.mark(Gap(missing.number)))
            return None
        if not is_next:
            return None
        if number < 0:
            self._answer_beat(client, peer, message)
            return None
        self._tell(client, peer, peer.intake.take(sum(frame.nbytes for frame in frames)))
        return client, [message, *frames[1:]]

    def _tell(self, client: bytes, peer: _Peer, credit: Credit | None) -> None:
        if credit is not None:
            self._put(client, peer.tally.mark(credit))

    def _answer_beat(self, client: bytes, peer: _Peer, message: memoryview) -> None:
        """And say once more what was taken: who waits for that may have missed it."""
        with contextlib.suppress(WireError):
            beat = decode(message, Beat)
            assert isinstance(beat, Beat)
            self._tell(client, peer, peer.intake.tell())
            answer = Beat(beat.asked_ms, peer.tally.received, *self.progress())
            self._put(client, peer.tally.mark(answer))

    def close(self) -> None:
        if self.address.scheme == "inproc" and not self.socket.closed:
            with contextlib.suppress(zmq.ZMQError):  # else the name stays taken for a while
                self.socket.unbind(self.address.endpoint)
        super().close()


def _choose_lock(
    address: Address, identity: Identity | None, allow: Sequence[str], password: str | None
) -> Lock | None:
    """What guards a listening socket: over tcp, never nothing. Raises AddressError."""
    if address.scheme == "tcp":
        if identity is not None and allow:
            return KnownKeys(allow)
        raise AddressError(
            f"{address.endpoint} is reached by anyone on the network; say which keys may "
            "connect: --allow PUBLIC_KEY (the client's `glinthawk keygen` prints it)"
        )
    if address.password is not None:
        raise AddressError(
            "a worker's password does not stand in its address, where every user of the machine "
            "can read it; write it into a file: --password-file FILE"
        )
    if address.scheme == "tcp+plain":
        if password is not None:
            return Password(password)
        raise AddressError(
            f"{address.endpoint} is reached by anyone on the network; say what they must know: "
            "--password-file FILE"
        )
    return None
