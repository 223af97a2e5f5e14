"""Numbers on messages: whatever a link does, what is delivered is a beginning of what was sent."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import WorkerLost
from glinthawk.wire import tally
from glinthawk.wire.messages import FromTier1, ReleaseKV, decode, encode
from glinthawk.wire.tally import Beat, Gap, Missing, Tally, Watch, unpack

#: What a link does to a message.
_DEEDS = st.sampled_from(["pass", "pass", "pass", "swallow", "double", "again"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in milliseconds, as its only element."""
    now = [0]
    monkeypatch.setattr(tally, "_now_ms", lambda: now[0])
    return now


def _on_the_way(sent: list[bytes], deeds: list[str]) -> list[bytes]:
    """``again`` repeats a message later, behind the one after it."""
    arriving: list[bytes] = []
    late: list[bytes] = []
    for header, deed in zip(sent, deeds, strict=True):
        arriving += {"swallow": [], "double": [header] * 2}.get(deed, [header])
        arriving += late
        late = [header] if deed == "again" else []
    return arriving + late


@given(st.lists(_DEEDS, max_size=30))
def test_each_message_is_delivered_once_and_in_order_or_one_is_missing(deeds: list[str]) -> None:
    here, there = Tally(), Tally()
    sent = [here.stamp(ReleaseKV([number])) for number in range(len(deeds))]
    beat = here.mark(Beat(0))  # comes after all of them
    delivered, is_missing = [], False
    for header in [*_on_the_way(sent, deeds), beat]:
        numbered = unpack(memoryview(header))
        assert numbered is not None
        try:
            if there.admits(numbered[0]) and numbered[0] >= 0:
                delivered.append(decode(numbered[1], FromTier1))
        except Missing as missing:
            is_missing = True
            assert missing.number == len(delivered)
    first_lost = deeds.index("swallow") if "swallow" in deeds else len(deeds)
    assert delivered == [ReleaseKV([number]) for number in range(first_lost)]
    assert is_missing == ("swallow" in deeds)


@pytest.mark.parametrize(
    "header",
    [
        encode(ReleaseKV([1])),
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, 2, 3]),
        msgspec.msgpack.encode(["1", ["ask"]]),
        msgspec.msgpack.encode([2**64 - 1, ["ask"]])[:-1],
    ],
)
def test_what_has_no_number_is_left_to_its_reader(header: bytes) -> None:
    assert unpack(memoryview(header)) is None
    assert Watch("there", 1.0).admit(memoryview(header)) == header


def test_a_gap_is_named() -> None:
    server = Tally()
    server.stamp(ReleaseKV([1]))
    with pytest.raises(WorkerLost, match="message 0 from there was lost"):
        Watch("there", 1.0).admit(memoryview(server.stamp(ReleaseKV([2]))))
    with pytest.raises(WorkerLost, match="message 7 to there was lost"):
        Watch("there", 1.0).admit(memoryview(Tally().mark(Gap(7))))


class _Link:
    """A watch, and what its server would say."""

    def __init__(self, silence_s: float) -> None:
        self.watch, self.server = Watch("there", silence_s), Tally()

    def ask(self) -> int | None:
        """When it asks, if it does now."""
        header = self.watch.beat()
        if header is None:
            return None
        numbered = unpack(memoryview(header))
        assert numbered is not None
        beat = decode(numbered[1], Beat)
        assert isinstance(beat, Beat)
        return beat.asked_ms

    def hear(self, asked_ms: int, received: int, moved: int = 0, idle: bool = True) -> None:
        answer = self.server.mark(Beat(asked_ms, received, moved, idle))
        assert self.watch.admit(memoryview(answer)) is None


def test_it_asks_some_times_in_the_time_of_silence(clock: list[int]) -> None:
    link, asked = _Link(3.0), []
    for clock[0] in range(0, 6000, 100):
        if (when := link.ask()) is not None:
            asked.append(when)
    assert asked == [1000, 2000, 3000, 4000, 5000]


def test_who_is_busy_or_silent_or_was_sent_more_is_never_stalled(clock: list[int]) -> None:
    link = _Link(3.0)
    link.watch.stamp(ReleaseKV([1]))
    for clock[0] in range(0, 60_000, 1000):  # it says nothing
        link.ask()
        assert not link.watch.is_stalled
    for clock[0] in range(60_000, 120_000, 1000):  # it computes
        link.hear(clock[0], received=1, idle=False)
        assert not link.watch.is_stalled
    for clock[0] in range(120_000, 180_000, 1000):  # there is more on the way
        link.hear(clock[0], received=0)
        assert not link.watch.is_stalled
    for clock[0] in range(180_000, 240_000, 1000):  # it does one thing after the other
        link.hear(clock[0], received=1, moved=clock[0])
        assert not link.watch.is_stalled
    for clock[0] in range(240_000, 300_000, 1000):  # it is sent one thing after the other
        link.hear(clock[0], received=1 + (clock[0] - 240_000) // 1000)
        link.watch.stamp(ReleaseKV([1]))
        assert not link.watch.is_stalled
        assert link.watch.idle is None


def test_an_old_answer_says_nothing_of_now(clock: list[int]) -> None:
    """However late answers come, only the time at which they were asked for counts."""
    link = _Link(3.0)
    for clock[0] in range(10_000, 70_000, 1000):
        link.hear(5_000, received=0)
        assert not link.watch.is_stalled


def test_who_has_nothing_to_do_for_all_of_the_time_is_stalled(clock: list[int]) -> None:
    link = _Link(3.0)
    link.watch.stamp(ReleaseKV([1]))
    assert not link.watch.is_settled
    for clock[0] in range(1000, 4000, 1000):
        link.hear(clock[0], received=1)
        assert not link.watch.is_stalled
    assert link.watch.is_settled
    clock[0] = 4000
    link.hear(4000, received=1)
    assert link.watch.is_stalled
    assert link.watch.admit(memoryview(link.server.stamp(ReleaseKV([1])))) is not None
    assert not link.watch.is_stalled
