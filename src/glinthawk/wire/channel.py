"""Messages over ZeroMQ sockets. The transport is chosen by the address; tcp is always CURVE, and
tcp+plain, for who asks for it by name, PLAIN: a password and no encryption.

One ``ClientChannel`` (DEALER) speaks to one ``ServerChannel`` (ROUTER). A message is a header frame
and raw frames; large frames are sent without a copy, so a sender must not write to them again.
Messages are numbered (``tally.py``): each is delivered once and in order, or the link is lost. The
server says how much of what it was sent it has taken (``credit.py``); a client that sends much
looks at its ``window`` first. What a server sends are answers: who asks for little at a time gets
little.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import zmq
from zmq.utils.monitor import recv_monitor_message

from glinthawk.core.config import LINK_WINDOW, WORKER_TIMEOUT_S
from glinthawk.core.errors import AddressError, WireError, WorkerLost
from glinthawk.wire.address import Address
from glinthawk.wire.credit import Credit, Intake, Window
from glinthawk.wire.gate import Gate, KnownKeys, Lock, Password
from glinthawk.wire.keys import Identity, to_z85
from glinthawk.wire.messages import Ask, FromWorker, Message, decode
from glinthawk.wire.tally import BEATS, Beat, Gap, Idle, Missing, Tally, Watch, unpack

__all__ = ["LARGEST_FRAME", "ClientChannel", "Frame", "ServerChannel"]

Frame = memoryview | bytes

#: Bytes of a frame beyond which the sender is cut off before memory is taken for it. A million
#: rows of the widest models fit.
LARGEST_FRAME = 1 << 34
#: The longest message is a client's name, a header and q, k, v; one more shows that it is longer.
_MOST_FRAMES = 6
#: Answers that may wait for a client that does not take them.
_MOST_ANSWERS = 4096
#: Clients whose messages are counted; the one that was silent longest is forgotten for another.
_MOST_CLIENTS = 4096
_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
)


def _context(address: Address) -> zmq.Context[zmq.Socket[bytes]]:
    """inproc only reaches within one context; everything else gets its own, with its own keys."""
    return zmq.Context.instance() if address.scheme == "inproc" else zmq.Context()


def _open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.linger = 0
    # Bounded by windows, not by dropping; and who stops reading hears no heartbeat.
    socket.sndhwm = socket.rcvhwm = 0
    return socket


def _receive_frames(socket: zmq.Socket[bytes], flags: int = 0) -> list[memoryview]:
    """The frames of the next message; what is beyond any valid one is thrown away unread."""
    frames = [socket.recv(flags, copy=False)]
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(copy=False)
        if len(frames) < _MOST_FRAMES:
            frames.append(frame)
    return [frame.buffer for frame in frames]


class _Channel:
    """What both ends share: a socket, its context, and an end."""

    def __init__(self, address: Address, kind: int) -> None:
        self.address = address
        self._context = _context(address)
        self.socket = _open_socket(self._context, kind)

    def close(self) -> None:
        """Close at once; what was not delivered is dropped."""
        self.socket.close()
        if self.address.scheme != "inproc":
            self._context.term()

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(slots=True)
class _Peer:
    """A client, as its server counts."""

    intake: Intake
    tally: Tally = field(default_factory=Tally)


class ServerChannel(_Channel):
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
        while (received := self._admit(_receive_frames(self.socket))) is None:
            pass
        return received

    def take(self) -> tuple[bytes, list[memoryview]] | None:
        """As ``receive``, when the socket is readable; None if what came is for nobody but this
        channel, or came before. Never waits."""
        try:
            return self._admit(_receive_frames(self.socket, zmq.NOBLOCK))
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


class ClientChannel(_Channel):
    """The end of who asks. Counts the bytes that cross it; notices when the other side goes away,
    or says nothing for ``silence_s`` seconds, after which the other side gives this one up, too.

    ``hears`` is the union of messages that may come.
    """

    def __init__(
        self,
        address: Address,
        identity: Identity | None = None,
        silence_s: float = WORKER_TIMEOUT_S,
        hears: object = FromWorker,
    ) -> None:
        if address.scheme == "tcp+plain" and address.password is None:
            raise AddressError(
                "tcp+plain needs the password: tcp+plain://host:port?password=PASSWORD"
            )
        super().__init__(address, zmq.DEALER)
        self._silence_s = silence_s
        self._watch = Watch(address.endpoint, silence_s)
        self._hears = hears
        self._monitor: zmq.Socket[bytes] | None = None
        self.socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_FRAME)
        self._ask_for_life()
        if address.scheme == "tcp":
            identity = identity or Identity.load()
            self.socket.curve_publickey, self.socket.curve_secretkey = identity.as_z85()
            self.socket.curve_serverkey = to_z85(address.key or identity.public)
        elif address.password is not None:
            self.socket.plain_username = b"glinthawk"
            self.socket.plain_password = address.password.encode()
        if address.scheme != "inproc":
            self._monitor = self.socket.get_monitor_socket()
        try:
            self.socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"cannot connect to {address.endpoint}: {error.strerror}") from error

    def _ask_for_life(self) -> None:
        """Heartbeats go out from here alone; each says how long the other side shall wait for the
        next, so that one setting holds for both ends."""
        silence_ms = round(1000 * self._silence_s)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, silence_ms // BEATS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, silence_ms - silence_ms // BEATS)
        self.socket.setsockopt(zmq.HEARTBEAT_TTL, silence_ms)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll: readable means a message or news of the connection."""
        return [self.socket] if self._monitor is None else [self.socket, self._monitor]

    @property
    def idle(self) -> Idle | None:
        """When the other side certainly had nothing to do, with no message on the way."""
        return self._watch.idle

    @property
    def is_settled(self) -> bool:
        """Whether the other side is known to have received all messages."""
        return self._watch.is_settled

    @property
    def is_stalled(self) -> bool:
        """Whether an answer that is still awaited will not come: for the time of silence nothing
        has moved, and the other side says that it has nothing to do."""
        return self._watch.is_stalled

    @property
    def window(self) -> Window:
        """What is on its way to the other side, and may be."""
        return self._watch.window

    def send(self, message: Message, frames: Sequence[Frame] = ()) -> int:
        """Send, and say how many bytes that is on the wire. Raises WorkerLost, and never waits:
        queues are unbounded, so what cannot be queued has nowhere to go. Who sends much, sends
        while ``window`` has room."""
        header = self._watch.stamp(message)
        try:
            self.socket.send_multipart([header, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise WorkerLost(f"there is no connection to {self.address.endpoint}") from None
        num_bytes = len(header) + sum(memoryview(frame).nbytes for frame in frames)
        self.window.send(num_bytes)
        return num_bytes

    def receive(self) -> tuple[Message, list[memoryview], int] | None:
        """The next message, its frames and its bytes on the wire; None when there is none yet.

        Raises WorkerLost once a message is known to be lost, or the connection broke and nothing is
        left to read; WireError for what is no message. To know of a loss, this end asks the other
        one now and then, from here.
        """
        with contextlib.suppress(zmq.Again):
            while True:
                frames = _receive_frames(self.socket, zmq.NOBLOCK)
                if (header := self._watch.admit(frames[0])) is not None:
                    message = decode(header, self._hears)
                    return message, frames[1:], sum(frame.nbytes for frame in frames)
        self._check_connection()
        if (beat := self._watch.beat()) is not None:
            with contextlib.suppress(zmq.Again):
                self.socket.send(beat, zmq.NOBLOCK)
        return None

    def reach(self, timeout_s: float) -> None:
        """Return once the worker answers at all. Raises WorkerLost that says what to look at."""
        self.send(Ask())  # without a session the answer is a Fault, which is an answer
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if self.receive() is not None:
                return
            self.wait(left)
        raise WorkerLost(
            f"no answer from {self.address.endpoint} in {timeout_s:g} s: is the worker running, "
            "and do both sides know each other's key (`glinthawk keygen`), or the same password?"
        )

    def wait(self, timeout_s: float) -> None:
        """Return when there is something to receive, or after ``timeout_s``, or when it is time to
        ask (in ``receive``) whether anything is lost."""
        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        poller.poll(int(1000 * min(timeout_s, self._silence_s / BEATS)))

    def _check_connection(self) -> None:
        while self._monitor is not None and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event in _REFUSALS:
                raise WorkerLost(f"{self.address.endpoint} refused the connection: {self._advice}")
            if event == zmq.EVENT_DISCONNECTED:
                self._disconnect()
                raise WorkerLost(
                    f"the connection to {self.address.endpoint} broke, or was silent for "
                    f"{self._silence_s:g} s (--worker-timeout)"
                )

    @property
    def _advice(self) -> str:
        if self.address.scheme == "tcp+plain":
            return "is the password that of its --password-file, and does it listen on tcp+plain?"
        return (
            "give its public key (tcp://host:port?key=...), and let it --allow yours "
            "(`glinthawk keygen`)"
        )

    def _disconnect(self) -> None:
        """ZeroMQ would connect again, and deliver to who knows nothing of what came before."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.disconnect(self.address.endpoint)

    def close(self) -> None:
        if self._monitor is not None and not self.socket.closed:
            self.socket.disable_monitor()
            self._monitor.close()
        super().close()
