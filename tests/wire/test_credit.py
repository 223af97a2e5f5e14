"""Whatever a receiver does, and whenever it says so: a window bounds what is under way, and never
keeps a sender waiting for a receiver that waits."""

from collections import deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import WireError
from glinthawk.wire.credit import LARGEST_WINDOW, Credit, Intake, Window
from glinthawk.wire.messages import decode, encode


class _Link:
    """Messages and credits on their way; ``sizes`` are still to be sent."""

    def __init__(self, size: int, sizes: list[int]) -> None:
        self.window, self.intake = Window(), Intake(size)
        self.sizes = deque(sizes)
        self._messages: deque[int] = deque()
        self._credits: deque[Credit] = deque()

    @property
    def under_way(self) -> int:
        return sum(self._messages)

    def send(self) -> bool:
        if not self.sizes or not self.window.has_room():
            return False
        self._messages.append(self.sizes.popleft())
        self.window.send(self._messages[-1])
        return True

    def take(self) -> bool:
        if not self._messages:
            return False
        if (credit := self.intake.take(self._messages.popleft())) is not None:
            self._credits.append(credit)
        return True

    def hear(self) -> bool:
        if not self._credits:
            return False
        self.window.grant(self._credits.popleft())
        return True

    def lose(self) -> bool:
        """A credit does not arrive; now and then the receiver says all once more."""
        if not self._credits:
            return False
        self._credits.popleft()
        self._credits.append(self.intake.tell())
        return True


_SIZES = st.lists(st.integers(1, 50), max_size=60)
_WINDOWS = st.integers(1, 100)
_EVENTS = st.lists(st.sampled_from(["send", "take", "hear", "lose"]), max_size=200)


@given(_WINDOWS, _SIZES, _EVENTS)
def test_what_is_under_way_is_bounded_and_all_arrives(
    size: int, sizes: list[int], events: list[str]
) -> None:
    link, largest = _Link(size, sizes), max(sizes, default=0)
    for event in events:
        getattr(link, event)()
        assert link.under_way <= link.window.under_way < size + largest
    while any([link.send(), link.take(), link.hear()]):  # until all wait
        assert link.window.under_way < size + largest
    assert not link.sizes
    assert link.window.most < size + largest


@given(_WINDOWS, _SIZES)
def test_a_receiver_does_not_speak_of_every_message(size: int, sizes: list[int]) -> None:
    intake = Intake(size)
    credits = [credit for num_bytes in sizes if (credit := intake.take(num_bytes)) is not None]
    assert len(credits) <= 1 + 4 * sum(sizes) / size


def test_until_the_receiver_has_spoken_one_message_is_under_way() -> None:
    window = Window()
    assert window.has_room()
    window.send(1)
    assert not window.has_room()
    window.grant(Credit(1, 50))
    assert window.has_room(49)
    assert not window.has_room(50)


def test_what_was_said_before_changes_nothing_later() -> None:
    window = Window()
    window.send(80)
    window.grant(Credit(60, 50))
    window.grant(Credit(10, 50))
    assert window.under_way == 20


def test_nobody_takes_what_was_not_sent() -> None:
    window = Window()
    window.send(80)
    with pytest.raises(WireError, match="81 bytes are said to be taken, of 80 sent"):
        window.grant(Credit(81, 50))


@pytest.mark.parametrize(
    "credit",
    [
        Credit(-1, 1),
        Credit(1 << 63, 1),
        Credit(0, 0),
        Credit(0, -5),
        Credit(0, LARGEST_WINDOW + 1),
        Credit(0, 1 << 200),
        Credit(0.5, 1),  # type: ignore[arg-type]
    ],
)
def test_numbers_out_of_range_are_no_credit(credit: Credit) -> None:
    try:
        header = encode(credit)
    except (OverflowError, msgspec.MsgspecError):
        return  # cannot even be said
    with pytest.raises(WireError, match="not a message"):
        decode(header, Credit)
