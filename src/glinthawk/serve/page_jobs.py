"""Jobs as the page shows them, and when they are expected to end."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from glinthawk.jobs.job import Progress
from glinthawk.serve.api_objects import BatchObject
from glinthawk.serve.batch_desk import BatchDesk
from glinthawk.serve.batch_states import ENDED, STAMPS
from glinthawk.serve.record_store import NoSuchRecord, RecordStore

__all__ = ["BatchRows", "PageJob", "RunRow"]

#: Batches that are shown, the newest; letters of what clients say of theirs.
_MOST, _MOST_LETTERS = 100, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PageJob:
    """Times are in seconds since 1970. ``note`` is what its client says of it."""

    id: str
    name: str
    status: str
    total: int
    done: int
    failed: int
    note: str = ""
    expected_end: float | None = None
    deadline: float | None = None
    ended: float | None = None


class BatchRows:
    """Of the batches that a key may see: those that go on, in their order, then
    the newest."""

    def __init__(self, desk: BatchDesk, store: RecordStore) -> None:
        self._desk, self._store = desk, store
        self._began = time.time()
        #: By batch: when it was first seen here, and how many lines had been answered then.
        self._first: dict[str, tuple[float, int]] = {}

    def __call__(self, owner: str) -> list[PageJob]:
        page = self._desk.list(owner, after=None, limit=_MOST)
        batches = [one for one in page.data if isinstance(one, BatchObject)]
        going_on = [one for one in batches if one.status not in ENDED]
        going_on.sort(key=lambda one: one.expires_at)
        ended = [one for one in batches if one.status in ENDED]
        return [self._row(owner, one) for one in going_on + ended]

    def _row(self, owner: str, batch: BatchObject) -> PageJob:
        counts, is_over = batch.request_counts, batch.status in ENDED
        note = ", ".join(f"{name}: {value}" for name, value in (batch.metadata or {}).items())
        return PageJob(
            id=batch.id,
            name=self._name(owner, batch.input_file_id)[:_MOST_LETTERS],
            note=note[:_MOST_LETTERS],
            status=batch.status,
            total=counts.total,
            done=counts.completed + counts.failed,
            failed=counts.failed,
            expected_end=self._expect(batch),
            deadline=None if is_over else batch.expires_at,
            ended=getattr(batch, STAMPS[batch.status]) if is_over else None,
        )

    def _expect(self, batch: BatchObject) -> float | None:
        if batch.status != "in_progress" or batch.in_progress_at is None:
            self._first.pop(batch.id, None)
            return None
        done = batch.request_counts.completed + batch.request_counts.failed
        # What was answered before the server was started again says nothing of its pace.
        is_new = batch.in_progress_at >= self._began
        first = (batch.in_progress_at, 0) if is_new else (time.time(), done)
        since, before = self._first.setdefault(batch.id, first)
        return _expect(done, batch.request_counts.total, since, before)

    def _name(self, owner: str, file: str) -> str:
        try:
            return self._store.find_file(owner, file).filename
        except NoSuchRecord:  # it was deleted
            return file


class RunRow:
    """Of the one job that ``glinthawk run`` has."""

    def __init__(self, name: str, ask: Callable[[], Progress]) -> None:
        self._name, self._ask = name, ask
        self._began = time.time()

    def __call__(self, _owner: str) -> list[PageJob]:
        now = self._ask()
        is_over = now.answered >= now.total
        row = PageJob(
            id="run",
            name=self._name,
            status="completed" if is_over else "in_progress",
            total=now.total,
            done=now.answered,
            failed=now.failed,
            expected_end=_expect(now.answered, now.total, self._began, now.resumed),
        )
        return [row]


def _expect(done: int, total: int, since: float, before: int) -> float | None:
    """When all is answered at the pace since then; None where that cannot be guessed yet."""
    now = time.time()
    if done <= before or done >= total:
        return None
    return now + (total - done) * (now - since) / (done - before)
