"""What the scheduler takes for an event of one sequence, by how many sequences are living."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from glinthawk.bench.timing import seconds
from glinthawk.core.batch import Batch
from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.engine.event_log import EventRing
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import Command, HomeJoined, Step, Stepped, Submitted
from glinthawk.scheduler.records import answers_of, record_of
from glinthawk.scheduler.scheduler import Scheduler

__all__ = ["SchedulerRow", "run"]

_Write = Callable[[str], None]
#: Most microseconds that an event of a sequence should take.
_ROOF_US = 20
_SIZES, _QUICK = (16, 1_000, 16_000, 64_000), (16, 1_000)
_PROMPT, _LONGEST, _NEW = 8, 512, 64
#: Of what changes nothing: the shortest time is the least disturbed.
_REPEATS = 7


@dataclass(frozen=True, slots=True)
class SchedulerRow:
    """Microseconds of an event of one sequence."""

    living: int
    #: A request comes; it is admitted while the others step; a token comes; it ends.
    submit_us: float
    admission_us: float
    stepped_us: float
    ended_us: float
    #: A step of all that live, in which some end and as many are admitted.
    turnover_us: float
    #: To record what happened to it in such a step.
    record_us: float


def run(write: _Write, *, quick: bool = False, most: int | None = None) -> None:
    """Measure, and write lines as they come; the last one is a JSON object."""
    write(f"roof: {_ROOF_US} us for each event of a sequence, however many live")
    rows = []
    for living in _QUICK if quick else _SIZES:
        if most is None or living <= most:
            rows.append(_measure(living))
            write("  ".join(f"{name} {value}" for name, value in asdict(rows[-1]).items()))
    write(json.dumps({"roof_us": _ROOF_US, "rows": [asdict(row) for row in rows]}))


def _measure(living: int) -> SchedulerRow:
    scheduler = Scheduler(BatchLimits(2 * living + _NEW, 2, 1 << 40))
    pages = (living + 4 * _NEW) * (2 + _LONGEST // PAGE_TOKENS)
    scheduler.handle(HomeJoined(1, pages, PAGE_TOKENS))
    crowd = _requested(0, living)
    submit_s = seconds(lambda: _submit(scheduler, crowd))
    (first,) = _batches(scheduler.schedule())
    _submit(scheduler, _requested(living, _NEW))
    commands: list[Command] = []
    admission_s = seconds(lambda: commands.extend(scheduler.schedule()))
    (second,) = _batches(commands)
    stepped_s = seconds(lambda: scheduler.handle(_step(first)))
    ended_s = seconds(lambda: scheduler.handle(_step(second, ends=len(second.spans))))
    batches = _batches(scheduler.schedule())
    few = max(1, living // 16)
    _submit(scheduler, _requested(living + _NEW, few))
    turnover_s = seconds(lambda: _turn(scheduler, batches, few))
    record = _recording(batches)
    record_s = min(seconds(record) for _ in range(_REPEATS))
    return SchedulerRow(
        living,
        _us(submit_s, living),
        _us(admission_s, _NEW),
        _us(stepped_s, living),
        _us(ended_s, _NEW),
        _us(turnover_s, living),
        _us(record_s, living),
    )


def _recording(batches: list[Batch]) -> Callable[[], None]:
    """Notes the batches and their steps, as a run does that keeps its last events."""
    ring = EventRing(Path())

    def note() -> None:
        for batch in batches:
            ring.add(record_of(_step(batch), answers_of([Step(batch)])))

    return note


def _turn(scheduler: Scheduler, batches: list[Batch], ends: int) -> None:
    for number, batch in enumerate(batches):
        scheduler.handle(_step(batch, ends=0 if number else min(ends, len(batch.spans))))
        scheduler.schedule()


def _submit(scheduler: Scheduler, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        scheduler.handle(Submitted(sequence))


def _requested(first: int, count: int) -> list[Sequence]:
    """Of many lengths: what is still to come differs, as in a real job."""
    sequences = []
    for number in range(first, first + count):
        longest = 2 + number * 7919 % (_LONGEST - 1)
        prompt = (number, *range(1, _PROMPT))
        params = SamplingParams(max_tokens=longest)
        sequences.append(Sequence(Request(number, prompt, params, 0, longest)))
    return sequences


def _step(batch: Batch, ends: int = 0) -> Stepped:
    """One token each; the first ``ends`` of them have met a stop string."""
    stopped = frozenset(span.sequence.id for span in batch.spans[:ends])
    return Stepped(batch, ((1,),) * len(batch.spans), stopped)


def _batches(commands: list[Command]) -> list[Batch]:
    return [command.batch for command in commands if isinstance(command, Step)]


def _us(total_s: float, count: int) -> float:
    return round(total_s / count * 1e6, 2)
