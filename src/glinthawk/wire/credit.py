"""How many bytes may be under way on a link, so that who is slow slows those who send to it.

A receiver says now and then how many bytes it has taken, and how many may be under way
(``Credit``). Its sender sends nothing while that many are. So one message may go beyond the window,
however long it is, and none has to be cut. ``taken`` only grows: a credit that is lost is made up
for by the next one. The first one answers a link's first message; until it is there, one message is
under way.
"""

from typing import Annotated

import msgspec

from glinthawk.core.errors import WireError
from glinthawk.wire.messages import Message

__all__ = ["LARGEST_WINDOW", "Credit", "Intake", "Window"]

#: Of what a receiver may ask its senders for: they keep in memory what is under way.
LARGEST_WINDOW = 1 << 32
#: A receiver speaks as soon as it has taken this part of its window without having said so.
_PARTS = 4


class Credit(Message, frozen=True):
    """From a receiver: it has ``taken`` so many bytes of numbered messages since the link began;
    ``window`` bytes may be under way."""

    taken: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    window: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_WINDOW)]


class Window:
    """A sender's count of what is under way.

    >>> window = Window()
    >>> window.grant(Credit(0, 100))
    >>> window.send(70)
    >>> window.has_room(), window.has_room(30)
    (True, False)
    >>> window.send(50)
    >>> window.has_room(), window.under_way
    (False, 120)
    >>> window.grant(Credit(70, 100))
    >>> window.has_room(), window.under_way, window.most
    (True, 50, 120)
    """

    def __init__(self) -> None:
        self._sent = self._taken = 0
        self._size = 1
        #: Bytes that were under way at one time.
        self.most = 0

    @property
    def under_way(self) -> int:
        """Bytes of which is not known that they were taken."""
        return self._sent - self._taken

    def has_room(self, waiting: int = 0) -> bool:
        """Whether another message may follow when ``waiting`` bytes more have been sent."""
        return self.under_way + waiting < self._size

    def send(self, num_bytes: int) -> None:
        """A message has left."""
        self._sent += num_bytes
        self.most = max(self.most, self.under_way)

    def grant(self, credit: Credit) -> None:
        """Take in what the receiver says. Raises WireError for what cannot be."""
        if credit.taken > self._sent:
            raise WireError(f"{credit.taken} bytes are said to be taken, of {self._sent} sent")
        self._taken, self._size = max(self._taken, credit.taken), credit.window


class Intake:
    """A receiver's count of what it has taken.

    >>> intake = Intake(100)
    >>> intake.take(10), intake.take(24), intake.take(1)
    (Credit(taken=10, window=100), None, Credit(taken=35, window=100))
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._taken = 0
        self._told: int | None = None

    def take(self, num_bytes: int) -> Credit | None:
        """Count a message; what the sender should hear now, if anything.

        Less than a window is unsaid at any time, so a sender always hears what lets it go on.
        """
        self._taken += num_bytes
        if self._told is None or _PARTS * (self._taken - self._told) >= self._window:
            return self.tell()
        return None

    def tell(self) -> Credit:
        """What there is to say."""
        self._told = self._taken
        return Credit(self._taken, self._window)
