"""A job whose lines a running server answers: handed in, followed, fetched."""

import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from glinthawk.client.batch_api import BatchApi, RemoteBatch
from glinthawk.client.divided_lines import divide_lines
from glinthawk.client.handed_record import (
    HandedRecord,
    forget_handed,
    load_handed,
    save_handed,
)
from glinthawk.core.errors import GlinthawkError, JournalError, ServerLost, UsageError
from glinthawk.jobs.finished import is_success, read_line_number
from glinthawk.jobs.journal import Journal
from glinthawk.jobs.stream import is_stream

__all__ = ["ServerJob"]

#: In the metadata of batches: whose they are.
_TOKEN = "glinthawk_job"
#: Between two looks at a batch: little at first, and how long a server may be away.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.2, 5.0
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class ServerJob:
    """Whatever is done can be interrupted and done again: lines are not handed in twice, and their
    results not taken in twice. ``report`` is told how many lines have results, here or there;
    ``say`` what else is to be known."""

    api: BatchApi
    journal: Journal
    output: Path
    completion_window: str
    report: Callable[[int], None]
    say: Callable[[str], None]

    def begin_anew(self) -> None:
        """Cancel what was handed in before, if it can be reached, and forget it."""
        if not self._is_kept:
            return
        with suppress(GlinthawkError):
            if (record := load_handed(self.output)) is not None:
                for id in filter(None, record.batches.values()):
                    self.api.cancel(id)
        forget_handed(self.output)

    def run(self) -> bool:
        """Until every line has its result, or Ctrl-C: then True. Raises GlinthawkError."""
        while self.journal.num_done < self.journal.survey.num_requests:
            record = self._handed()
            try:
                batches = [self._ended(id) for id in record.batches.values() if id is not None]
            except KeyboardInterrupt:
                self._leave(record)
                return True
            self._take(batches)
            if self._is_kept:
                forget_handed(self.output)
            for id in (id for batch in batches for id in batch.file_ids):
                with suppress(GlinthawkError):
                    self.api.delete_file(id)
        return False

    @property
    def _is_kept(self) -> bool:
        return not is_stream(self.output)

    # -- handing in --------------------------------------------------------------------------------

    def _handed(self) -> HandedRecord:
        """All of it, be it now or before."""
        record = load_handed(self.output) if self._is_kept else None
        if record is not None:
            record.check_server(self.api.url)
            record.check_input(self.journal.source)
            record = self._found(record)
            self.say("going on with what was handed in before")
            if None not in record.batches.values():
                return record
        folder = self.output.parent if self._is_kept else None
        with tempfile.TemporaryDirectory(prefix=".glinthawk-", dir=folder) as drafts:
            return self._hand_in(record, Path(drafts))

    def _hand_in(self, record: HandedRecord | None, drafts: Path) -> HandedRecord:
        files = divide_lines(self.journal, drafts)
        if record is None:
            survey = self.journal.survey
            record = HandedRecord(
                server=self.api.url,
                token=secrets.token_hex(12),
                input_bytes=survey.num_bytes,
                input_sha256=survey.sha256,
                batches=dict.fromkeys(files),
            )
            self._save(record)
        for endpoint, id in record.batches.items():
            if id is None:
                batch = self._create(endpoint, files[endpoint], record.token)
                record = replace(record, batches=record.batches | {endpoint: batch.id})
                self._save(record)
                self.say(f"handed in: {batch.id} at {self.api.url}")
        return record

    def _create(self, endpoint: str, file: Path, token: str) -> RemoteBatch:
        with file.open("rb") as content:
            file_id = self.api.upload(self.output.name, content)
        batch = self.api.create(file_id, endpoint, self.completion_window, {_TOKEN: token})
        # The batch has its lines by now.
        with suppress(GlinthawkError):
            self.api.delete_file(file_id)
        return batch

    def _found(self, record: HandedRecord) -> HandedRecord:
        """With the ids of batches that were made by a call whose answer nobody has read."""
        if None not in record.batches.values():
            return record
        own = {
            batch.endpoint: batch.id
            for batch in self.api.batches()
            if (batch.metadata or {}).get(_TOKEN) == record.token
        }
        known = {endpoint: id or own.get(endpoint) for endpoint, id in record.batches.items()}
        record = replace(record, batches=known)
        self._save(record)
        return record

    def _save(self, record: HandedRecord) -> None:
        if self._is_kept:
            save_handed(self.output, record)

    # -- following ---------------------------------------------------------------------------------

    def _ended(self, id: str) -> RemoteBatch:
        """The batch when it has. Raises KeyboardInterrupt."""
        pause, before = _FIRST_LOOK_S, self.journal.num_done
        while not (batch := self._look(id)).has_ended:
            self.report(before + batch.num_done)
            time.sleep(pause)
            pause = min(_LONGEST_LOOK_S, 1.2 * pause)
        return batch

    def _look(self, id: str) -> RemoteBatch:
        """Also where the server is away for a while. Raises ServerLost after ten minutes."""
        until = time.monotonic() + _PATIENCE_S
        is_told = False
        while True:
            try:
                return self.api.retrieve(id)
            except ServerLost as error:
                if time.monotonic() > until:
                    raise
                if not is_told:
                    self.say(f"{error}; waiting for it")
                is_told = True
            time.sleep(_LONGEST_LOOK_S)

    def _leave(self, record: HandedRecord) -> None:
        """After Ctrl-C: whoever can come back for the results does, all others need none."""
        ids = [id for id in record.batches.values() if id is not None]
        if not self._is_kept:
            for id in ids:
                self.api.cancel(id)
            self.say("cancelled at the server")
            return
        self.say(
            f"{', '.join(ids)} goes on at {self.api.url}; the same command fetches its results"
        )
        self.say("with --restart it is cancelled there and begun anew")

    # -- fetching ----------------------------------------------------------------------------------

    def _take(self, batches: list[RemoteBatch]) -> None:
        """Take in the results. Raises UsageError for a batch without them."""
        for batch in batches:
            for file_id in batch.file_ids:
                for result in self.api.lines(file_id):
                    self._take_line(result)
            self.journal.flush()
            self.report(self.journal.num_done)
        for batch in batches:
            if batch.status in ("failed", "cancelled"):
                forget_handed(self.output)
                raise UsageError(_why(batch))

    def _take_line(self, result: bytes) -> None:
        line = read_line_number(result)
        if line is None or line >= self.journal.survey.num_lines:
            raise JournalError("the server's results are not of these lines; see its version")
        if not self.journal.is_finished(line):
            self.journal.append(line, result, failed=not is_success(result))


def _why(batch: RemoteBatch) -> str:
    if batch.status == "cancelled":
        return f"{batch.id} was cancelled at the server; run it again to hand in the rest"
    told = batch.errors.data if batch.errors else []
    reasons = [f"line {one.line}: {one.message}" if one.line else one.message for one in told[:3]]
    return f"the server cannot answer {batch.id}: {'; '.join(reasons) or 'it does not say why'}"
