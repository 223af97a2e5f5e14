"""What an event log keeps, what of it comes back, and how it tells that something is missing."""

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.engine.event_log import End, EventFile, EventLog, EventRing
from glinthawk.engine.event_reader import EventReader
from glinthawk.scheduler import records
from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits
from glinthawk.scheduler.records import Record

_DRAFTS = DraftLimits(5, ((1, 0.5), (2, 0.75)), 0.25)
_LIMITS = BatchLimits(8, 2, 100, prompts_at_home=True, drafts=_DRAFTS)
_EVENTS: list[Record] = [
    records.JoinedRecord(0, 20, 4, None, ()),
    records.SubmittedRecord(0, 0, 'é\n"', (5, 6), 9, 0, (2, 7), ()),
    records.PacedRecord(((1, 0.1 + 0.2),), {0: 1e-9, 3: 0.5}, {3: 0.001}, ()),
    records.Scheduled((records.Batched(0, (0,), (records.New(0, 0, 0, 2, None),)),)),
    records.SteppedRecord(
        0, (7,), (0,), (records.Released(0, (0,)), records.FinishedRecord(0, "stop"))
    ),
    records.Lost(0, (records.Aborted(3),)),
    records.Dropped((4, 5)),
    records.Renewed(),
    records.Lost(9, None),
]


def _fill(log: EventLog, error: str | None = None) -> Path | None:
    log.begin(_LIMITS, 4)
    for record in _EVENTS:
        log.add(record)
    return log.save(error)


def _read(path: Path) -> list[tuple[int, Record]]:
    with closing(EventReader(path)) as log:
        return list(log)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events"


def test_a_file_gives_back_every_event(path: Path) -> None:
    assert _fill(EventFile(path)) == path
    with closing(EventReader(path)) as log:
        assert list(log) == list(enumerate(_EVENTS))
        assert (log.header.limits, log.header.page_tokens, log.header.first) == (_LIMITS, 4, 0)
        assert isinstance(log.end, End)
        assert (log.end.num_events, log.end.error) == (len(_EVENTS), None)


def test_a_ring_is_written_only_after_an_error(path: Path) -> None:
    assert _fill(EventRing(path)) is None
    assert not path.exists()
    assert EventRing(path).save("KeyError: before the scheduler was made") is None
    assert not path.exists()
    assert _fill(EventRing(path), "KeyError: 3") == path
    with closing(EventReader(path)) as log:
        assert list(log) == list(enumerate(_EVENTS))
        assert log.end is not None
        assert log.end.error == "KeyError: 3"


def test_a_ring_keeps_the_last_events(path: Path) -> None:
    _fill(EventRing(path, most_events=3), "KeyError: 3")
    assert _read(path) == list(enumerate(_EVENTS))[-3:]


@pytest.mark.parametrize("most_bytes", [0, 60, 200])
def test_a_ring_keeps_no_more_than_so_many_bytes(path: Path, most_bytes: int) -> None:
    ring = EventRing(path, most_bytes=most_bytes)
    _fill(ring, "KeyError: 3")
    kept = path.read_bytes().splitlines()[1:-1]
    assert sum(map(len, kept)) <= most_bytes
    assert _read(path) == list(enumerate(_EVENTS))[len(_EVENTS) - len(kept) :]


def test_a_log_that_is_cut_anywhere_gives_what_is_whole_and_says_so(path: Path) -> None:
    _fill(EventFile(path))
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    for size in range(begin, len(whole)):
        path.write_bytes(whole[:size])
        count = whole[begin:size].count(b"\n")
        with closing(EventReader(path)) as log:
            events = iter(log)
            assert [next(events)[1] for _ in range(count)] == _EVENTS[:count]
            with pytest.raises(UsageError, match="run was killed"):
                next(events)


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_log_is_an_error(tmp_path_factory: object, place: float, byte: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"  # type: ignore[attr-defined]
    _fill(EventFile(path))
    whole = bytearray(path.read_bytes())
    begin = whole.index(b"\n") + 1
    index = begin + int(place * (len(whole) - begin))
    if whole[index] == byte:
        return
    whole[index] = byte
    path.write_bytes(whole)
    # The end's own line may change without a change of meaning: a space, the word for no error.
    last = bytes(whole).rindex(b"\n", 0, len(whole) - 1) if index < len(whole) - 1 else 0
    with closing(EventReader(path)) as log:
        try:
            assert [record for _, record in log] == _EVENTS
        except UsageError as error:
            assert "damaged" in str(error) or "run was killed" in str(error)
        else:
            assert index > last


def test_what_follows_the_end_is_an_error(path: Path) -> None:
    _fill(EventFile(path))
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UsageError, match="something follows its end"):
        _read(path)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is no event log"),
        (b"my thesis\n", "is no event log"),
        (b"\xff\n", "is no event log"),
        (b'{"custom_id":"a"}\n', "is no event log"),
        (None, "of format 99, by glinthawk 7.0"),
    ],
)
def test_another_file_is_refused(path: Path, raw: bytes | None, reason: str) -> None:
    _fill(EventFile(path))
    changed = path.read_bytes().replace(b'"format":1', b'"format":99')
    changed = changed.replace(b'"glinthawk":"0.1.0"', b'"glinthawk":"7.0"')
    path.write_bytes(changed if raw is None else raw)
    with pytest.raises(UsageError, match=reason):
        EventReader(path)


def test_a_file_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--event-log: cannot write"):
        EventFile(tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        EventReader(tmp_path / "missing")


def test_a_full_disk_is_named() -> None:
    log = EventFile(Path("/dev/full"))
    log.begin(_LIMITS, 4)
    with pytest.raises(UsageError, match=r"--event-log: cannot write .*No space left"):
        for _ in range(100_000):
            log.add(_EVENTS[0])
    with pytest.raises(UsageError, match="--event-log: cannot write"):
        log.save()
