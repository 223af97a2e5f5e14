"""The end of a channel that asks: Tier 1's, or an engine's."""

import contextlib
import time
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from glinthawk.core.config import WORKER_TIMEOUT_S
from glinthawk.core.errors import AddressError, WorkerLost
from glinthawk.wire.address import Address
from glinthawk.wire.channel import LARGEST_FRAME, Channel, Frame, receive_frames
from glinthawk.wire.credit import Window
from glinthawk.wire.keys import Identity, to_z85
from glinthawk.wire.messages import Ask, FromWorker, Message, decode
from glinthawk.wire.tally import BEATS, Idle, Watch

__all__ = ["ClientChannel"]

_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
)


class ClientChannel(Channel):
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
                frames = receive_frames(self.socket, zmq.NOBLOCK)
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
