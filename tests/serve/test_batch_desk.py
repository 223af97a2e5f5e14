"""What becomes of a batch whose life breaks off, and which batches are under way."""

from queue import Empty
from typing import Any

import pytest

from glinthawk.core.errors import JournalError
from glinthawk.serve.api_objects import BatchObject
from glinthawk.serve.batch_desk import BatchDesk
from glinthawk.serve.batch_life import Tidings
from glinthawk.serve.batch_queue import BatchEntry, BatchQueue
from watching import wait_until

NOTHING: Any = None


class _Life:
    """Fails as often as it is told to."""

    def __init__(self, is_over: bool, *errors: Exception) -> None:
        self.is_over, self._errors = is_over, list(errors)
        self.said: list[str] = []

    def live(self, *_: object) -> None:
        self.said.append("live")
        if self._errors:
            raise self._errors.pop(0)

    def give_up(self, _owner: str, _id: str, error: Exception) -> None:
        self.said.append(f"give up: {error}")


@pytest.mark.parametrize(
    ("is_over", "errors", "said"),
    [
        (False, [], ["live"]),
        # A defect of its own ends it, and then it is cleaned up after.
        (False, [KeyError("a")], ["live", "give up: 'a'", "live"]),
        (False, [KeyError("a"), KeyError("b")], ["live", "give up: 'a'", "live"]),
        # One of the engine is none of the batch: the next start goes on with it.
        (True, [RuntimeError("out of memory")], ["live"]),
    ],
)
def test_who_is_at_fault(is_over: bool, errors: list[Exception], said: list[str]) -> None:
    life: Any = _Life(is_over, *errors)
    desk = BatchDesk(NOTHING, NOTHING, life)
    assert desk._follow(BatchEntry(1, 0, "owner", "batch")) is None
    assert life.said == said
    desk.stop()


class _Batches:
    """Lives that last until they are told something; ``blocked`` cannot go on."""

    is_over = False

    def __init__(self, *blocked: str) -> None:
        self._blocked = blocked
        self.lived: list[str] = []
        self.ended: list[str] = []

    def live(self, _owner: str, id: str, heard: Any) -> Tidings | None:
        self.lived.append(id)
        if id in self._blocked:
            raise JournalError("begun with other settings")
        word = heard.get()
        if isinstance(word, Tidings):
            return word
        self.ended.append(id)
        return None


def _enter(desk: BatchDesk, id: str, expires_at: int) -> None:
    asked = {"endpoint": "", "input_file_id": "", "completion_window": "", "created_at": 0}
    desk._enter("owner", BatchObject(id=id, expires_at=expires_at, **asked))  # type: ignore[arg-type]


def _open_desk(life: Any, most: int) -> BatchDesk:
    class Store:
        def open_batches(self) -> list[Any]:
            return []

    store: Any = Store()
    desk = BatchDesk(NOTHING, store, life, most)
    desk.start()
    return desk


def test_an_urgent_batch_does_not_wait_for_those_under_way() -> None:
    life = _Batches()
    desk = _open_desk(life, 2)
    for id, expires_at in (("week", 700), ("month", 3000)):
        _enter(desk, id, expires_at)
    wait_until(lambda: sorted(life.lived) == ["month", "week"])
    _enter(desk, "hour", 10)
    wait_until(lambda: "hour" in life.lived)
    assert life.lived.count("week") == life.lived.count("month") == 1
    # When it has ended, the one that made way goes on.
    running = desk._queue._running
    running["hour"].tidings.put(None)
    wait_until(lambda: life.lived.count("month") == 2)
    assert life.ended == ["hour"] and life.lived.count("week") == 1
    desk.stop()


def test_batches_that_cannot_go_on_keep_no_place() -> None:
    life = _Batches("other settings")
    desk = _open_desk(life, 1)
    _enter(desk, "other settings", 1)
    wait_until(lambda: bool(life.lived))
    _enter(desk, "good", 2)
    wait_until(lambda: "good" in life.lived)
    desk.stop()


def _words(entry: BatchEntry) -> list[Any]:
    words = []
    while True:
        try:
            words.append(entry.tidings.get_nowait())
        except Empty:
            return words


def test_the_queue_gives_out_the_most_urgent_and_as_many_as_there_is_room_for() -> None:
    queue = BatchQueue(2)
    entries = {n: BatchEntry(n, n, "", str(n)) for n in (5, 1, 9, 3, 7)}
    for entry in entries.values():
        queue.add(entry)
    assert [getattr(queue.take(), "id", None) for _ in range(2)] == ["1", "3"]
    # One that is less urgent changes nothing; two that are more so take both places.
    queue.add(BatchEntry(20, 20, "", "20"))
    assert not _words(entries[1]) and not _words(entries[3])
    queue.add(BatchEntry(0, 0, "", "0"))
    assert _words(entries[3]) == [Tidings.MAKE_WAY] and not _words(entries[1])
    queue.leave(entries[3])
    assert getattr(queue.take(), "id", None) == "0"
    queue.add(entries[3])
    assert queue.withdraw("5") is entries[5] and queue.withdraw("1") is None
    queue.tell("1", Tidings.CANCEL)
    queue.close()
    assert _words(entries[1]) == [Tidings.CANCEL, Tidings.STOP]
    assert queue.take() is None
