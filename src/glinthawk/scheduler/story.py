"""What happened to one sequence, in the order in which it did."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from glinthawk.scheduler import records
from glinthawk.scheduler.records import Record

__all__ = ["Line", "story"]


class Line(NamedTuple):
    """Something that happened in event number ``event``."""

    event: int
    sequence: int
    text: str


def story(who: str, events: Iterable[tuple[int, Record]]) -> Iterator[Line]:
    """All that numbered ``events`` say of the sequences of the custom_id ``who``, one for each
    choice, and of sequence number ``who``.

    Where the beginning of the events is lost a sequence may be known by its number alone.
    """
    teller = _Teller(who)
    for number, record in events:
        for sequence, text in teller.tell(record):
            yield Line(number, sequence, text)


_Told = Iterator[tuple[int, str]]


class _Teller:
    """Keeps what an event does not say again: rows of batches, homes, counts of tokens."""

    def __init__(self, who: str) -> None:
        self._who = who
        #: Sequences that are told of, and the home of each if known.
        self._homes: dict[int, int | None] = {int(who): None} if who.isdecimal() else {}
        self._rows: dict[int, tuple[int, ...]] = {}
        self._num_tokens: dict[int, int] = {}
        self._ended: set[int] = set()
        self._withdrawn: set[int] = set()
        self._emptied: set[int] = set()

    def tell(self, record: Record) -> _Told:
        yield from self._event(record)
        out = getattr(record, "out", ())
        if out is None:
            yield from ((sequence, "the scheduler failed") for sequence in self._homes)
        ending = {each.sequence for each in out or () if isinstance(each, records.FinishedRecord)}
        why = "outgrown" if isinstance(record, records.SteppedRecord) else "pre-empted"
        for answer in out or ():
            yield from self._answer(answer, ending, why)

    def _event(self, record: Record) -> _Told:
        match record:
            case records.SubmittedRecord():
                yield from self._submitted(record)
            case records.SteppedRecord():
                yield from self._stepped(record)
            case records.Lost(home):
                for sequence in self._living_at(home):
                    self._homes[sequence] = None
                    yield sequence, f"home {home} is lost with its KV: it waits to begin again"
            case records.LeavingRecord(home):
                self._emptied.add(home)
                for sequence in self._living_at(home):
                    yield sequence, f"home {home} is to be emptied"
            case records.WithdrawnRecord(sequences):
                for sequence in self._told_of(sequences):
                    self._withdrawn.add(sequence)
                    yield sequence, "withdrawn: nobody wants its answer any more"
            case records.Dropped(sequences):
                for sequence in self._told_of(sequences):
                    self._ended.add(sequence)
                    yield sequence, "given up while it waited"
            case records.Renewed():
                for sequence in self._homes.keys() - self._ended:
                    yield sequence, "given up: all that was under way was left"

    def _submitted(self, record: records.SubmittedRecord) -> _Told:
        if record.name == self._who or record.sequence in self._homes:
            self._homes.setdefault(record.sequence, None)
            asked = f"{len(record.prompt)} prompt tokens, at most {record.max_tokens} new ones"
            yield record.sequence, f"submitted as {record.name!r}: {asked}"

    def _stepped(self, record: records.SteppedRecord) -> _Told:
        rows = self._rows.pop(record.batch, ())
        for sequence, tokens in zip(rows, record.rows, strict=False):
            for place, token in enumerate(tokens, start=1) if sequence in self._homes else ():
                count = self._num_tokens[sequence] = self._num_tokens.get(sequence, 0) + 1
                is_stop = sequence in record.stopped and place == len(tokens)
                stop = ", which ends a stop string" if is_stop else ""
                yield sequence, f"token {count} is {token}{stop} (batch {record.batch})"

    def _answer(self, answer: records.Answer, ending: set[int], why: str) -> _Told:
        match answer:
            case records.Batched():
                yield from self._batched(answer)
            case records.Released(home, sequences):
                for sequence in self._told_of(sequences):
                    yield sequence, self._released(sequence, home, ending, why)
            case records.Aborted(batch):
                for sequence in self._told_of(self._rows.pop(batch, ())):
                    yield sequence, f"batch {batch} is stopped"
            case records.FinishedRecord(sequence, reason):
                if sequence in self._homes:
                    self._ended.add(sequence)
                    yield sequence, f"finished: {reason}"

    def _batched(self, batch: records.Batched) -> _Told:
        new = {row.sequence: row for row in batch.new}
        drafts = {row.sequence: len(row.tokens) for row in batch.drafts}
        for sequence in self._told_of(batch.rows):
            self._rows[batch.batch] = batch.rows
            row = new.get(sequence)
            if row is None:
                guessed = f", {drafts[sequence]} tokens guessed" if sequence in drafts else ""
                where = _where(self._homes[sequence])
                yield sequence, f"steps in batch {batch.batch}{where}{guessed}"
                continue
            if row.start and row.source is None:
                chunk = f"tokens {row.start} to {row.start + row.length} of its prompt"
                yield sequence, f"goes on in batch {batch.batch}{_where(row.home)}: {chunk}"
                continue
            self._homes[sequence] = row.home
            shared = f", behind {row.start} of sequence {row.source}" if row.start else ""
            place = f"in batch {batch.batch}{_where(row.home)}"
            yield sequence, f"begins {place}: {row.length} tokens{shared}"

    def _released(self, sequence: int, home: int, ending: set[int], why: str) -> str:
        self._homes[sequence] = None
        if sequence in ending | self._withdrawn:
            return f"its KV at home {home} is freed"
        if sequence in self._ended:
            return f"its KV at home {home}, which was kept for its prefix, is freed"
        why = "moved" if home in self._emptied else why
        return f"{why}: its KV at home {home} is freed, it waits to begin again"

    def _told_of(self, sequences: Iterable[int]) -> list[int]:
        return [sequence for sequence in sequences if sequence in self._homes]

    def _living_at(self, home: int) -> list[int]:
        return [s for s, at in self._homes.items() if at == home and s not in self._ended]


def _where(home: int | None) -> str:
    return "" if home is None else f" at home {home}"
