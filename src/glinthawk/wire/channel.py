"""Messages over ZeroMQ sockets. The transport is chosen by the address; tcp is always CURVE.

One ``ClientChannel`` (DEALER) speaks to one ``ServerChannel`` (ROUTER). A message is a header frame
and raw frames; large frames are sent without a copy, so a sender must not write to them again.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from glinthawk.core.errors import AddressError, WorkerLost
from glinthawk.wire.address import Address
from glinthawk.wire.keys import Identity, to_z85
from glinthawk.wire.messages import Ask, FromWorker, Message, decode, encode

__all__ = ["ClientChannel", "Frame", "ServerChannel"]

Frame = memoryview | bytes

_HEARTBEAT_MS = 5_000
_SILENCE_MS = 30_000
_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
)

logging.getLogger("zmq.auth").setLevel(logging.CRITICAL)


class _AllowList:
    """The ZAP callback: a client may in whose public key is on the list."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = {to_z85(key) for key in keys}

    def callback(self, _domain: str, key: bytes) -> bool:
        return key in self._keys


def _context(address: Address) -> zmq.Context[zmq.Socket[bytes]]:
    """inproc only reaches within one context; everything else gets its own, with its own keys."""
    return zmq.Context.instance() if address.scheme == "inproc" else zmq.Context()


def _open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = 0  # bounded by the batches in flight, not by dropping
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS)
    return socket


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


class ServerChannel(_Channel):
    """A worker's end. ``allow`` are the public keys of clients that may connect over tcp."""

    def __init__(self, address: Address, identity: Identity | None, allow: Sequence[str]) -> None:
        if address.scheme == "tcp" and (identity is None or not allow):
            raise AddressError(
                f"{address.endpoint} is reached by anyone on the network; say which keys may "
                "connect: --allow PUBLIC_KEY (the client's `glinthawk keygen` prints it)"
            )
        super().__init__(address, zmq.ROUTER)
        self._authenticator: ThreadAuthenticator | None = None
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if address.scheme == "tcp" and identity is not None:
            self._lock(identity, allow)
        try:
            self.socket.bind(address.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"cannot listen on {address.endpoint}: {error.strerror}") from error

    def _lock(self, identity: Identity, allow: Sequence[str]) -> None:
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(credentials_provider=_AllowList(allow))
        self.socket.curve_publickey, self.socket.curve_secretkey = identity.as_z85()
        self.socket.curve_server = True

    @property
    def endpoint(self) -> str:
        """Where it really listens: a port of 0 or ``*`` has become a number."""
        return str(self.socket.get_string(zmq.LAST_ENDPOINT))

    def receive(self) -> tuple[bytes, list[memoryview]]:
        """(client, frames) of the next message; frames[0] is its header."""
        client, *frames = self.socket.recv_multipart(copy=False)
        return client.bytes, [frame.buffer for frame in frames]

    def send(self, client: bytes, message: Message, frames: Sequence[Frame] = ()) -> bool:
        """Answer ``client``; False if it is no longer there."""
        try:
            self.socket.send_multipart([client, encode(message), *frames], copy=False)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def close(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        if self.address.scheme == "inproc" and not self.socket.closed:
            with contextlib.suppress(zmq.ZMQError):  # else the name stays taken for a while
                self.socket.unbind(self.address.endpoint)
        super().close()


class ClientChannel(_Channel):
    """The end of who asks. Counts the bytes that cross it; notices when the other side goes away.

    ``hears`` is the union of messages that may come.
    """

    def __init__(
        self, address: Address, identity: Identity | None = None, hears: object = FromWorker
    ) -> None:
        super().__init__(address, zmq.DEALER)
        self._hears = hears
        self._monitor: zmq.Socket[bytes] | None = None
        if address.scheme == "tcp":
            identity = identity or Identity.load()
            self.socket.curve_publickey, self.socket.curve_secretkey = identity.as_z85()
            self.socket.curve_serverkey = to_z85(address.key or identity.public)
        if address.scheme != "inproc":
            self._monitor = self.socket.get_monitor_socket()
        try:
            self.socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"cannot connect to {address.endpoint}: {error.strerror}") from error

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll: readable means a message or news of the connection."""
        return [self.socket] if self._monitor is None else [self.socket, self._monitor]

    def send(self, message: Message, frames: Sequence[Frame] = ()) -> int:
        """Send, and say how many bytes that is on the wire. Raises WorkerLost, and never waits:
        queues are unbounded, so what cannot be queued has nowhere to go."""
        header = encode(message)
        try:
            self.socket.send_multipart([header, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise WorkerLost(f"there is no connection to {self.address.endpoint}") from None
        return len(header) + sum(memoryview(frame).nbytes for frame in frames)

    def receive(self) -> tuple[Message, list[memoryview], int] | None:
        """The next message, its frames and its bytes on the wire; None when there is none yet.

        Raises WorkerLost once the connection broke and nothing is left to read.
        """
        with contextlib.suppress(zmq.Again):
            frames = [frame.buffer for frame in self.socket.recv_multipart(zmq.NOBLOCK, copy=False)]
            message = decode(frames[0], self._hears)
            return message, frames[1:], sum(frame.nbytes for frame in frames)
        self._check_connection()
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
            "and do both sides know each other's key (`glinthawk keygen`)?"
        )

    def wait(self, timeout_s: float) -> None:
        """Return when there is something to receive, or after ``timeout_s``."""
        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000))

    def _check_connection(self) -> None:
        while self._monitor is not None and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event in _REFUSALS:
                raise WorkerLost(
                    f"{self.address.endpoint} refused the connection: give its public key "
                    "(tcp://host:port?key=...), and let it --allow yours (`glinthawk keygen`)"
                )
            if event == zmq.EVENT_DISCONNECTED:
                raise WorkerLost(f"the connection to {self.address.endpoint} broke")

    def close(self) -> None:
        if self._monitor is not None and not self.socket.closed:
            self.socket.disable_monitor()
            self._monitor.close()
        super().close()
