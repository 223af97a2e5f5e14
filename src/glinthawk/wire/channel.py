"""Messages over ZeroMQ sockets. The transport is chosen by the address; tcp is always CURVE, and
tcp+plain, for who asks for it by name, PLAIN: a password and no encryption.

One ``ClientChannel`` (DEALER) speaks to one ``ServerChannel`` (ROUTER). A message is a header frame
and raw frames; large frames are sent without a copy, so a sender must not write to them again.
Messages are numbered (``tally.py``): each is delivered once and in order, or the link is lost. The
server says how much of what it was sent it has taken (``credit.py``); a client that sends much
looks at its ``window`` first. What a server sends are answers: who asks for little at a time gets
little.
"""

from types import TracebackType

import zmq

from glinthawk.wire.address import Address

__all__ = ["LARGEST_FRAME", "Channel", "Frame", "receive_frames"]

Frame = memoryview | bytes

#: Bytes of a frame beyond which the sender is cut off before memory is taken for it. A million
#: rows of the widest models fit.
LARGEST_FRAME = 1 << 34
#: The longest message is a client's name, a header and q, k, v; one more shows that it is longer.
_MOST_FRAMES = 6


def _context(address: Address) -> zmq.Context[zmq.Socket[bytes]]:
    """inproc only reaches within one context; everything else gets its own, with its own keys."""
    return zmq.Context.instance() if address.scheme == "inproc" else zmq.Context()


def _open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.linger = 0
    # Bounded by windows, not by dropping; and who stops reading hears no heartbeat.
    socket.sndhwm = socket.rcvhwm = 0
    return socket


def receive_frames(socket: zmq.Socket[bytes], flags: int = 0) -> list[memoryview]:
    """The frames of the next message; what is beyond any valid one is thrown away unread."""
    frames = [socket.recv(flags, copy=False)]
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(copy=False)
        if len(frames) < _MOST_FRAMES:
            frames.append(frame)
    return [frame.buffer for frame in frames]


class Channel:
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
