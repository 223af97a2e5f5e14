"""Numbers on messages, by which their receiver notices what is missing and what comes twice.

A connection keeps order: who gets message 7 after message 5 knows that 6 is lost, and who gets 5
again drops it. Behind the last message nothing follows that would show a gap, so a client sends a
``Beat`` now and then, with the number of the message that it would send next, and the server
answers alike, when it comes to it. So a loss is proven, and who is only slow is not accused.
"""

import time
from typing import NamedTuple

import msgspec

from glinthawk.core.errors import WireError, WorkerLost
from glinthawk.wire.credit import Credit, Window
from glinthawk.wire.messages import Message, decode

__all__ = ["BEATS", "Beat", "Gap", "Idle", "Missing", "Tally", "Watch", "unpack"]

#: Questions in the time after which silence means that the other side is gone.
BEATS = 3

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])


class Beat(Message, frozen=True):
    """From a client at its time ``asked_ms``, and back with what the server says of itself: how
    many messages it has ``received`` from this client; ``moved``, another number whenever it has
    done something for anybody since; and whether it is ``idle``: it waits for messages alone."""

    asked_ms: int
    received: int = 0
    moved: int = 0
    idle: bool = False


class Gap(Message, frozen=True):
    """The answer to all that follows a message that did not come."""

    missing: int


class Missing(Exception):
    """A message did not come, though a later one did."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Tally:
    """Messages of one connection, as one of its ends counts them."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    def stamp(self, message: Message) -> bytes:
        """The header of the next message."""
        self.sent += 1
        return _encoder.encode((self.sent - 1, message))

    def mark(self, message: Beat | Gap | Credit) -> bytes:
        """The header of a message that is not counted, and tells how many were: n as -1 - n."""
        return _encoder.encode((~self.sent, message))

    def admits(self, number: int) -> bool:
        """Whether this is the next message's number; else it was here before. Raises Missing."""
        is_counted = number >= 0
        place = number if is_counted else ~number
        if place > self.received:
            raise Missing(self.received)
        if place < self.received:
            return False
        self.received += is_counted
        return True


def unpack(header: memoryview) -> tuple[int, memoryview] | None:
    """The number on a message and the message; None for what has no number, such as the message of
    an older glinthawk, whose reader will say so."""
    try:
        number, message = _decoder.decode(header)
    except (msgspec.DecodeError, RecursionError):
        return None
    return number, memoryview(message)


class Idle(NamedTuple):
    """When, by this end's clock, the other one certainly waited for messages alone, with none on
    the way between both."""

    moved: int
    since_ms: int
    until_ms: int


class Watch:
    """A client's end: counts, and keeps an eye on the server. ``endpoint`` is how that is called
    in errors, ``silence_s`` the time in which some beats are sent."""

    def __init__(self, endpoint: str, silence_s: float) -> None:
        self._endpoint = endpoint
        self._silence_ms = round(1000 * silence_s)
        self._tally = Tally()
        self._confirmed = 0
        self._next_ms = _now_ms() + self._silence_ms // BEATS
        #: What is on its way to the server.
        self.window = Window()
        #: None: it has something to do, or that is not known.
        self.idle: Idle | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the server is known to have received all messages."""
        return self._confirmed == self._tally.sent

    @property
    def is_stalled(self) -> bool:
        """Whether nothing has moved for too long though nobody has anything to do: who still waits
        for an answer waits in vain."""
        return self.idle is not None and (
            self.idle.until_ms - self.idle.since_ms >= self._silence_ms
        )

    def stamp(self, message: Message) -> bytes:
        """The header of the next message."""
        self.idle = None
        return self._tally.stamp(message)

    def beat(self) -> bytes | None:
        """The header of a beat, when one is due."""
        now = _now_ms()
        if now < self._next_ms:
            return None
        self._next_ms = now + self._silence_ms // BEATS
        return self._tally.mark(Beat(now))

    def admit(self, header: memoryview) -> memoryview | None:
        """The message in ``header``; None if there is none for anybody but this watch, or it came
        before. Raises WorkerLost once one is missing, there or here, and WireError for what cannot
        be."""
        numbered = unpack(header)
        if numbered is None:
            return header
        number, message = numbered
        try:
            is_next = self._tally.admits(number)
        except Missing as missing:
            raise WorkerLost(
                f"message {missing.number} from {self._endpoint} was lost on its way"
            ) from None
        if number >= 0:
            self.idle = None if is_next else self.idle
            return message if is_next else None
        self._take(decode(message, Beat | Gap | Credit), is_next)
        return None

    def _take(self, message: Message, is_new: bool) -> None:
        match message:
            case Gap(missing):
                raise WorkerLost(f"message {missing} to {self._endpoint} was lost on its way")
            case Beat() if is_new:
                self._confirmed = max(self._confirmed, min(message.received, self._tally.sent))
                self.idle = self._extended(message)
            case Credit() if is_new:
                self._grant(message)

    def _grant(self, credit: Credit) -> None:
        try:
            self.window.grant(credit)
        except WireError as error:
            raise WireError(f"{self._endpoint} counts what was not sent: {error}") from None

    def _extended(self, beat: Beat) -> Idle | None:
        """It was idle when it answered, and, unless it has moved since, already before."""
        if not beat.idle or beat.received != self._tally.sent:
            return None
        now = _now_ms()
        idle = Idle(beat.moved, now, min(beat.asked_ms, now))
        if self.idle is None or self.idle.moved != beat.moved:
            return idle
        return Idle(beat.moved, self.idle.since_ms, max(self.idle.until_ms, idle.until_ms))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
