"""Where batches are handed in, and followed until they have ended."""

import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from msgspec.structs import replace

from glinthawk.core.errors import GlinthawkError
from glinthawk.serve.api_errors import ApiError
from glinthawk.serve.api_objects import BatchObject
from glinthawk.serve.batch_checks import NewBatch
from glinthawk.serve.batch_life import BatchLife, Tidings
from glinthawk.serve.batch_queue import BatchEntry, BatchQueue
from glinthawk.serve.data_folder import DataFolder, new_id
from glinthawk.serve.record_store import NoSuchRecord, Page, RecordStore

__all__ = ["BatchDesk"]

_logger = logging.getLogger(__name__)

#: Batches that are under way at one time; each has three files open.
_MOST_OPEN = 64
#: Until a batch is tried again that could not go on, as on a full disk.
_PAUSE_S = 10.0


class BatchDesk:
    """May be called by any thread. Those of the nearest deadlines are under way first."""

    def __init__(
        self,
        folder: DataFolder,
        store: RecordStore,
        life: BatchLife,
        most_open: int = _MOST_OPEN,
    ) -> None:
        self._folder, self._store, self._life = folder, store, life
        self._queue = BatchQueue(most_open)
        self._threads = ThreadPoolExecutor(most_open, "batch")
        self._most_open = most_open
        self._ending = ThreadPoolExecutor(1, "cancelled-batch")
        self._numbers = count()

    def start(self) -> None:
        """Go on with the batches that there are."""
        for owner, batch in self._store.open_batches():
            self._life.recall(batch)
            self._enter(owner, batch)
        for _ in range(self._most_open):
            self._threads.submit(self._follow_all)

    def stop(self) -> None:
        """Leave them as they are, for the next start."""
        self._queue.close()
        for threads in (self._threads, self._ending):
            threads.shutdown(cancel_futures=True)

    def create(self, owner: str, asked: NewBatch) -> BatchObject:
        """Raises NoSuchRecord for an unknown file, ApiError for one that is no input."""
        file = self._store.find_file(owner, asked.input_file_id)
        if file.purpose != "batch":
            raise ApiError(400, f"the purpose of {file.id} is not batch", param="input_file_id")
        now = int(time.time())
        batch = BatchObject(
            id=new_id("batch_"),
            endpoint=asked.endpoint,
            input_file_id=file.id,
            completion_window=asked.completion_window,
            created_at=now,
            expires_at=now + asked.window_s,
            model=self._life.model_name,
            metadata=asked.metadata,
        )
        try:
            self._folder.begin_batch(batch.id, file.id)
        except FileNotFoundError as error:
            raise NoSuchRecord(file.id) from error
        try:
            self._store.add_batch(owner, batch)
        except BaseException:
            self._folder.end_batch(batch.id)
            raise
        self._enter(owner, batch)
        return batch

    def find(self, owner: str, id: str) -> BatchObject:
        """As it is now. Raises NoSuchRecord."""
        return self._counted(self._store.find_batch(owner, id))

    def list(self, owner: str, *, after: str | None, limit: int) -> Page:
        """The newest first."""
        page = self._store.list_batches(owner, after=after, limit=limit)
        batches = [self._counted(one) for one in page.data if isinstance(one, BatchObject)]
        return Page(batches, page.has_more)

    def cancel(self, owner: str, id: str) -> BatchObject:
        """What is answered already is kept. Raises NoSuchRecord, StateError for a batch that has
        ended."""
        batch = self._store.change_batch(owner, id, _cancelled)
        if (entry := self._queue.withdraw(id)) is not None:
            # Not behind those that are under way, which may be many.
            self._ending.submit(self._end_cancelled, entry)
        else:
            self._queue.tell(id, Tidings.CANCEL)
        return self._counted(batch)

    def _counted(self, batch: BatchObject) -> BatchObject:
        counts = self._life.counts(batch.id)
        if counts is None or batch.status not in ("in_progress", "finalizing", "cancelling"):
            return batch
        return replace(batch, request_counts=counts)

    def _enter(self, owner: str, batch: BatchObject) -> None:
        self._queue.add(BatchEntry(batch.expires_at, next(self._numbers), owner, batch.id))

    def _follow_all(self) -> None:
        while (entry := self._queue.take()) is not None:
            try:
                pause_s = self._follow(entry)
            finally:
                self._queue.leave(entry)
            if pause_s is not None:
                self._queue.add(entry, pause_s)

    def _end_cancelled(self, entry: BatchEntry) -> None:
        if (pause_s := self._follow(entry)) is not None:
            self._queue.add(entry, pause_s)

    def _follow(self, entry: BatchEntry) -> float | None:
        """None: it has ended, or the server ends. Else it has to go on, in so many seconds."""
        defect: Exception | None = None
        while True:
            try:
                if defect is not None:
                    self._life.give_up(entry.owner, entry.id, defect)
                word = self._life.live(entry.owner, entry.id, entry.tidings)
                return 0.0 if word is Tidings.MAKE_WAY else None
            except (GlinthawkError, OSError, sqlite3.Error) as error:
                _logger.warning("%s waits: %s", entry.id, error)
                return _PAUSE_S
            except Exception as error:
                # Where the engine has failed, so has everything: the next start goes on.
                if self._life.is_over or defect is not None:
                    return None
                _logger.exception("%s has failed", entry.id)
                defect = error


def _cancelled(batch: BatchObject) -> BatchObject:
    if batch.status == "cancelling":
        return batch
    return batch.moved("cancelling")
