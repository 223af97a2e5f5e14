"""What a scheduler was told and what it answered, as values that a file can hold.

A record is one call of the scheduler: the event, in the numbers of homes, sequences and batches,
and the commands that came back (``out``). Where the call raised an error, ``out`` is None.
"""

from collections.abc import Iterable

import msgspec

from glinthawk.core.batch import Batch
from glinthawk.core.pooling import PooledRows
from glinthawk.scheduler import commands

__all__ = [
    "Aborted",
    "Answer",
    "Batched",
    "Drafted",
    "Dropped",
    "FinishedRecord",
    "JoinedRecord",
    "Lost",
    "New",
    "Out",
    "PacedRecord",
    "Record",
    "Released",
    "Renewed",
    "Scheduled",
    "SteppedRecord",
    "SubmittedRecord",
    "WithdrawnRecord",
    "answers_of",
    "record_of",
]

#: Characters of a custom_id that are kept.
_NAME = 256


def _kind(name: str) -> str:
    return name.removesuffix("Record").lower()


class _Record(msgspec.Struct, frozen=True, array_like=True, tag=_kind):
    """Written as a JSON array that begins with the name of its kind."""


class New(msgspec.Struct, frozen=True, array_like=True):
    """A row that is no decode row: a prompt, what is left of one behind a common prefix, or a chunk
    of either."""

    sequence: int
    home: int
    start: int
    length: int
    source: int | None


class Drafted(msgspec.Struct, frozen=True, array_like=True):
    """Tokens that are guessed to follow a decode row."""

    sequence: int
    tokens: tuple[int, ...]


class Batched(_Record, frozen=True):
    """A batch is to run; ``rows`` are its sequences in order, ``new`` those that begin."""

    batch: int
    rows: tuple[int, ...]
    new: tuple[New, ...]
    drafts: tuple[Drafted, ...] = ()


class Released(_Record, frozen=True):
    """KV of sequences is to be freed."""

    home: int
    sequences: tuple[int, ...]


class FinishedRecord(_Record, frozen=True):
    """An answer is complete."""

    sequence: int
    reason: str


class Aborted(_Record, frozen=True):
    """A batch is to be stopped."""

    batch: int


Answer = Batched | Released | FinishedRecord | Aborted
Out = tuple[Answer, ...] | None


class JoinedRecord(_Record, frozen=True):
    """As ``commands.HomeJoined``."""

    home: int
    num_pages: int
    page_tokens: int
    most_sequences: int | None
    out: Out


class Lost(_Record, frozen=True):
    """As ``commands.HomeLost``."""

    home: int
    out: Out


class SubmittedRecord(_Record, frozen=True):
    """What the scheduler reads of a request. ``name`` is the beginning of its custom_id."""

    sequence: int
    request: int
    name: str
    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    stop_ids: tuple[int, ...]
    out: Out
    #: Whether its prompt is scored.
    is_scored: bool = False
    priority: int = 0
    #: Which of its prompt's rows are pooled.
    pooled: PooledRows | None = None
    #: Number of its LoRA adapter.
    adapter: int = 0


class WithdrawnRecord(_Record, frozen=True):
    """As ``commands.Withdrawn``."""

    sequences: tuple[int, ...]
    out: Out


class SteppedRecord(_Record, frozen=True):
    """A batch took its step; ``tokens`` are those of its rows in their order, where a row has one
    token that alone."""

    batch: int
    tokens: tuple[int | tuple[int, ...], ...]
    stopped: tuple[int, ...]
    out: Out

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """All tokens of every row."""
        return tuple([(row,) if isinstance(row, int) else row for row in self.tokens])


class PacedRecord(_Record, frozen=True):
    """As ``step_cost.StepCost``, in seconds."""

    dense: tuple[tuple[int, float], ...]
    attend_s: dict[int, float]
    link_s: dict[int, float]
    out: Out


class Scheduled(_Record, frozen=True):
    """Free batch slots were to be filled."""

    out: Out


class Dropped(_Record, frozen=True):
    """What waited was given up."""

    sequences: tuple[int, ...]


class Renewed(_Record, frozen=True):
    """A new scheduler went on in this one's place, without sequences, batches and homes."""


Record = (
    JoinedRecord
    | Lost
    | SubmittedRecord
    | WithdrawnRecord
    | SteppedRecord
    | PacedRecord
    | Scheduled
    | Dropped
    | Renewed
)


def record_of(event: commands.Event, out: Out) -> Record:
    """``event``, and what came of it."""
    match event:
        case commands.Stepped(batch, tokens, stopped):
            alone = tuple([row[0] if len(row) == 1 else row for row in tokens])
            return SteppedRecord(batch.id, alone, tuple(sorted(stopped)), out)
        case commands.Submitted(sequence):
            asked = sequence.request
            return SubmittedRecord(
                sequence.id,
                asked.id,
                asked.name[:_NAME],
                asked.prompt,
                asked.max_tokens,
                asked.params.min_tokens,
                tuple(sorted(asked.stop_ids)),
                out,
                asked.params.prompt_logprobs is not None,
                asked.priority,
                None if asked.pooling is None else asked.pooling.rows,
                asked.adapter,
            )
        case commands.Withdrawn(sequences):
            return WithdrawnRecord(tuple(sorted(sequences)), out)
        case commands.Paced(step_cost):
            return PacedRecord(
                step_cost.dense, dict(step_cost.attend_s), dict(step_cost.link_s), out
            )
        case commands.HomeJoined(home, num_pages, page_tokens, most):
            return JoinedRecord(home, num_pages, page_tokens, most, out)
        case commands.HomeLost(home):
            return Lost(home, out)


def answers_of(issued: Iterable[commands.Command]) -> tuple[Answer, ...]:
    """The commands as records, in order."""
    return tuple(_answer(command) for command in issued)


def _answer(command: commands.Command) -> Answer:
    match command:
        case commands.Step(batch):
            return _batched(batch)
        case commands.Release(home, sequences):
            return Released(home, sequences)
        case commands.Finish(sequence):
            assert sequence.finish_reason is not None
            return FinishedRecord(sequence.id, sequence.finish_reason.value)
        case commands.Abort(batch):
            return Aborted(batch.id)


def _batched(batch: Batch) -> Batched:
    spans = batch.spans
    # Most rows of most batches are decode rows: where they live and what they hold is known.
    new = [
        New(span.sequence.id, span.home, span.start, span.length, span.source)
        for span in spans
        if not span.is_decode or span.source is not None
    ]
    drafts = [Drafted(span.sequence.id, span.draft) for span in spans if span.draft]
    rows = tuple([span.sequence.id for span in spans])
    return Batched(batch.id, rows, tuple(new), tuple(drafts))
