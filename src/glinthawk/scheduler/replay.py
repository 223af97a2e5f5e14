"""Recorded events go through a scheduler once more: does it say the same, and do its sums hold?"""

from glinthawk.core.batch import Batch
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.pooling import Pooling
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.scheduler import commands, records
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.recorded import RecordedScheduler
from glinthawk.scheduler.records import Record
from glinthawk.scheduler.step_cost import StepCost

__all__ = ["Replay"]


class Replay:
    """Takes the records of a run in their order, from its first one."""

    def __init__(self, limits: BatchLimits, page_tokens: int = PAGE_TOKENS) -> None:
        self.scheduler = RecordedScheduler(limits, self._note, page_tokens=page_tokens)
        self._batches: dict[int, Batch] = {}
        self._said: Record | None = None

    def take(self, record: Record) -> str | None:
        """Run what ``record`` says; what was different this time, or None. Nothing can be said of
        what comes after a difference."""
        self._said = None
        if isinstance(record, records.SteppedRecord) and record.batch not in self._batches:
            return f"batch {record.batch} is not under way"
        failed = getattr(record, "out", ()) is None
        try:
            self._drive(record)
        except Exception as error:  # whatever a broken log, or an error of ours, leads to
            where = "as in the run" if failed else "but not in the run"
            return f"the scheduler fails, {where}: {type(error).__name__}: {error}"
        if failed:
            return "the scheduler failed in the run, or was interrupted, and does not fail now"
        return self._difference(record) or self._wrong_sums()

    def _note(self, record: Record) -> None:
        self._said = record

    def _drive(self, record: Record) -> None:
        match record:
            case records.Scheduled():
                self._carry_out(self.scheduler.schedule())
            case records.Dropped():
                self.scheduler.drop_waiting()
            case records.Renewed():
                self.scheduler = self.scheduler.renewed()
                self._batches.clear()
            case _:
                self._carry_out(self.scheduler.handle(self._event(record)))

    def _event(self, record: Record) -> commands.Event:
        match record:
            case records.SteppedRecord():
                batch = self._batches.pop(record.batch)
                return commands.Stepped(batch, record.rows, frozenset(record.stopped))
            case records.SubmittedRecord():
                return commands.Submitted(_sequence(record))
            case records.WithdrawnRecord(sequences):
                return commands.Withdrawn(frozenset(sequences))
            case records.JoinedRecord(home, num_pages, page_tokens, most):
                return commands.HomeJoined(home, num_pages, page_tokens, most)
            case records.Lost(home):
                return commands.HomeLost(home)
            case records.PacedRecord(dense, attend_s, link_s):
                return commands.Paced(StepCost(dense, attend_s, link_s))
        raise TypeError(f"{record} is no event")

    def _carry_out(self, issued: list[commands.Command]) -> None:
        for command in issued:
            if isinstance(command, commands.Step):
                self._batches[command.batch.id] = command.batch
            elif isinstance(command, commands.Abort):
                del self._batches[command.batch.id]

    def _difference(self, record: Record) -> str | None:
        if self._said == record:
            return None
        then = getattr(record, "out", None) or (record,)
        now = getattr(self._said, "out", None) or (self._said,)
        pairs = [*zip(then, now, strict=False)]
        place = next((n for n, (one, other) in enumerate(pairs) if one != other), len(pairs))
        return f"it was {_at(then, place)} and is {_at(now, place)}"

    def _wrong_sums(self) -> str | None:
        try:
            self.scheduler.validate()
        except AssertionError as error:
            return f"the scheduler's sums do not hold: {error}"
        return None


def _at(answers: tuple[object, ...], place: int) -> str:
    return repr(answers[place]) if place < len(answers) else "nothing"


def _sequence(record: records.SubmittedRecord) -> Sequence:
    """One that the scheduler cannot tell from the run's."""
    # Whether an answer had stop strings is told with its steps.
    scored = 0 if record.is_scored else None
    params = SamplingParams(max_tokens=None, min_tokens=record.min_tokens, prompt_logprobs=scored)
    stop_ids = frozenset(record.stop_ids)
    request = Request(
        record.request,
        record.prompt,
        params,
        0,
        record.max_tokens,
        stop_ids,
        record.name,
        priority=record.priority,
        pooling=None if record.pooled is None else Pooling(record.pooled),
        adapter=record.adapter,
    )
    return Sequence(request, record.sequence)
