"""The life of a batch, from its first line to the files that it leaves.

All that is done can be done again: whatever a kill has left is gone on with from the batch's state
and its results.
"""

import time
from contextlib import suppress
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Literal

from glinthawk.core.errors import JournalError
from glinthawk.engine.shared_engine import SharedEngine
from glinthawk.jobs.job import Job
from glinthawk.jobs.journal import Journal
from glinthawk.serve.api_objects import (
    BatchErrors,
    BatchObject,
    LineError,
    RequestCounts,
    StateError,
)
from glinthawk.serve.batch_asker import BatchAsker
from glinthawk.serve.batch_checks import LineLimits, check_file
from glinthawk.serve.batch_results import (
    count_results,
    expire_rest,
    has_expired,
    split_results,
)
from glinthawk.serve.data_folder import DataFolder
from glinthawk.serve.record_store import RecordStore
from glinthawk.serve.served_model import ServedModel
from glinthawk.serve.server_metrics import ServerMetrics

__all__ = ["BatchLife", "Heard", "Tidings"]


class Tidings(Enum):
    """What a batch that is under way may hear."""

    CANCEL = "cancel"
    STOP = "stop"
    MAKE_WAY = "make way"


#: Upon these a batch is left as it is, to be gone on with.
_LEAVING = (Tidings.STOP, Tidings.MAKE_WAY)


#: Tidings, or that the engine is done with it: an error, or None.
Heard = SimpleQueue[Tidings | Exception | None]


class BatchLife:
    """One for all batches; each is followed by a thread of its own."""

    def __init__(
        self,
        folder: DataFolder,
        store: RecordStore,
        engine: SharedEngine,
        model: ServedModel,
        limits: LineLimits,
        metrics: ServerMetrics,
    ) -> None:
        self._folder, self._store, self._engine = folder, store, engine
        self._model, self._limits, self._metrics = model, limits, metrics
        #: Of batches under way: their jobs, or what there was when they had none.
        self._jobs: dict[str, Job] = {}
        self._counts: dict[str, RequestCounts] = {}

    @property
    def model_name(self) -> str:
        return self._model.name

    @property
    def is_over(self) -> bool:
        """Whether the engine has failed: no batch can go on before another start."""
        return self._engine.failure is not None

    def counts(self, id: str) -> RequestCounts | None:
        """Of a batch that is under way; None of any other."""
        job = self._jobs.get(id)
        return self._counts.get(id) if job is None else _counts_of(job)

    def recall(self, batch: BatchObject) -> None:
        """Say of a batch, before it is under way, what was answered before a restart."""
        if batch.status != "validating":
            done, failed = count_results(self._folder.batch_results(batch.id))
            self._counts[batch.id] = RequestCounts(batch.request_counts.total, done, failed)

    def live(self, owner: str, id: str, heard: Heard) -> Tidings | None:
        """Come back when the batch has ended, or with the word upon which it is left. Raises what
        keeps it from going on: it may be called again."""
        try:
            while (word := self._step(owner, self._store.find_batch(owner, id), heard)) is False:
                pass
        finally:
            self._jobs.pop(id, None)
        if word is None:
            self._counts.pop(id, None)
        return word

    def give_up(self, owner: str, id: str, error: Exception) -> None:
        """For a defect: the batch fails, and keeps what was answered."""
        batch = self._store.find_batch(owner, id)
        what = LineError(code="server_error", message=f"the server has a defect ({error!r})")
        with suppress(StateError):
            status = "cancelled" if batch.status == "cancelling" else "failed"
            self._finish(owner, batch, status, errors=BatchErrors(data=[what]))

    def _step(
        self, owner: str, batch: BatchObject, heard: Heard
    ) -> Tidings | Literal[False] | None:
        """Bring a batch to its next state; False while there is more to do, None at its end."""
        # Somebody may have cancelled it meanwhile: then it is looked at again.
        with suppress(StateError):
            match batch.status:
                case "validating":
                    self._validate(owner, batch)
                case "in_progress":
                    return self._answer(owner, batch, heard)
                case "finalizing":
                    self._finish(owner, batch, "completed")
                case "cancelling":
                    self._finish(owner, batch, "cancelled")
                case _:
                    self._folder.end_batch(batch.id)
                    return None
        return False

    def _move(self, owner: str, batch: BatchObject, status: str, **changes: Any) -> None:
        self._store.change_batch(owner, batch.id, lambda now: now.moved(status, **changes))

    def _validate(self, owner: str, batch: BatchObject) -> None:
        checked = check_file(self._folder.batch_input(batch.id), batch.endpoint, self._limits)
        if isinstance(checked, int):
            counts = RequestCounts(checked)
            self._counts[batch.id] = counts
            self._move(owner, batch, "in_progress", request_counts=counts)
        else:
            self._move(owner, batch, "failed", errors=BatchErrors(data=checked))

    def _answer(self, owner: str, batch: BatchObject, heard: Heard) -> Tidings | Literal[False]:
        """The word upon which it is left, if there is one."""
        try:
            return self._answer_left(owner, batch, heard)
        except JournalError:
            if time.time() < batch.expires_at:
                raise
        # It was begun with other settings, and its time is over.
        self._finish(owner, batch, "expired")
        return False

    def _answer_left(
        self, owner: str, batch: BatchObject, heard: Heard
    ) -> Tidings | Literal[False]:
        results = self._folder.batch_results(batch.id)
        with Journal.open(
            self._folder.batch_input(batch.id),
            results,
            self._model.fingerprint,
        ) as journal:
            journal.settle(self._model.resolved)
            job = self._jobs[batch.id] = self._model.job(journal)
            word = self._wait(job, batch, heard) if _is_left(journal) else None
            job.flush()
            self._counts[batch.id] = _counts_of(job)
            if word is TimeoutError:
                expire_rest(journal)
        if isinstance(word, Tidings) and word in _LEAVING:
            return word
        # A kill may have come between the lines that say so and the state.
        if word is TimeoutError or (word is None and has_expired(results)):
            self._finish(owner, batch, "expired")
        elif word is None:
            self._move(owner, batch, "finalizing")
        return False

    def _wait(self, job: Job, batch: BatchObject, heard: Heard) -> Any:
        """Why it is over: None, all is answered; tidings; TimeoutError, its time is over."""
        asker = BatchAsker(job, heard.put, self._metrics.count_answer)
        number = self._engine.ask(asker, batch.expires_at)
        try:
            word = heard.get(timeout=max(0.0, batch.expires_at - time.time()))
        except Empty:
            return TimeoutError
        finally:
            self._engine.withdraw(number)
            asker.close()
        if isinstance(word, Exception):
            raise word
        return word

    def _finish(self, owner: str, batch: BatchObject, status: str, **more: Any) -> None:
        """The last step: files and state come together, or not at all."""
        files = split_results(self._folder, batch.id)
        counts = RequestCounts(batch.request_counts.total, files.num_completed, files.num_failed)
        try:
            self._store.change_batch(
                owner,
                batch.id,
                lambda now: now.moved(status, request_counts=counts, **files.fields(), **more),
                files.objects,
            )
        except BaseException:
            for file in files.objects:
                self._folder.delete_content(file.id)
            raise
        self._metrics.count_batch(status)


def _is_left(journal: Journal) -> bool:
    return journal.num_done < journal.survey.num_requests


def _counts_of(job: Job) -> RequestCounts:
    progress = job.progress
    completed = progress.answered - progress.failed
    return RequestCounts(progress.total, completed, progress.failed)
