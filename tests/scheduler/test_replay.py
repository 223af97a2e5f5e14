"""What was recorded runs again alike, whatever happened; what was changed afterwards is noticed."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from glinthawk.core.batch import Batch
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.scheduler import commands, records
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits
from glinthawk.scheduler.recorded import RecordedScheduler
from glinthawk.scheduler.records import Record
from glinthawk.scheduler.replay import Replay
from glinthawk.scheduler.scheduler import Scheduler
from glinthawk.scheduler.step_cost import StepCost
from glinthawk.scheduler.story import story
from storm import RARELY, Storm, short_answers

_LIMITS = BatchLimits(4, 2, 100)


def _written(record: Record) -> Record:
    """As it comes back from a file."""
    again: Record = msgspec.json.decode(msgspec.json.encode(record), type=Record)
    return again


class RecordedStorm(Storm):
    """A storm that is recorded, and runs again when it is over."""

    def make_scheduler(self, lengths: AnswerLengths | None) -> Scheduler:
        self.records: list[Record] = []
        self.experienced = lengths is not None
        return RecordedScheduler(self.limits, self.records.append, lengths, page_tokens=4)

    @rule()
    def give_up_what_waits(self) -> None:
        for sequence in self.scheduler.drop_waiting():
            del self.asked[sequence.id]

    @rule(pages=st.integers(4, 12), seldom=RARELY)
    def begin_again(self, pages: int, seldom: bool) -> None:
        if not seldom:
            return
        self.scheduler = self.scheduler.renewed()
        self.batches.clear()
        self.kv.clear()
        self.asked = {number: self.asked[number] for number in self.finished}
        self.left.clear()
        self.add_home(pages)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "scheduler"):
            replay_all(self.limits, self.records, self.experienced)


def replay_all(limits: BatchLimits, noted: list[Record], experienced: bool = False) -> Replay:
    replay = Replay(limits, page_tokens=4)
    if experienced:
        vars(replay.scheduler)["_lengths"].__dict__.update(vars(short_answers()))
    for record in noted:
        assert replay.take(_written(record)) is None, record
    return replay


TestRecordedStorm = RecordedStorm.TestCase
TestRecordedStorm.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


class Told:
    """A scheduler, what was noted of it, and a hand to drive it with."""

    def __init__(self, *pages: int, limits: BatchLimits = _LIMITS) -> None:
        self.records: list[Record] = []
        self.limits = limits
        self.scheduler = RecordedScheduler(limits, self.records.append, page_tokens=4)
        self.batches: list[Batch] = []
        for home, num_pages in enumerate(pages):
            self.take(commands.HomeJoined(home, num_pages, 4))

    def take(self, event: commands.Event) -> None:
        self._follow(self.scheduler.handle(event))

    def ask(self, number: int, prompt: tuple[int, ...], max_tokens: int, name: str = "") -> None:
        params = SamplingParams(max_tokens=max_tokens)
        request = Request(number, prompt, params, 0, max_tokens, frozenset({7}), name)
        self.take(commands.Submitted(Sequence(request)))

    def schedule(self) -> None:
        self._follow(self.scheduler.schedule())

    def step(self, token: int = 1, stopped: frozenset[int] = frozenset()) -> None:
        """All that run take their step, oldest first."""
        while self.batches:
            batch = self.batches.pop(0)
            self.take(commands.Stepped(batch, ((token,),) * len(batch.spans), stopped))

    def story(self, who: str) -> list[str]:
        return [line.text for line in story(who, enumerate(self.records))]

    def _follow(self, issued: list[commands.Command]) -> None:
        for command in issued:
            if isinstance(command, commands.Step):
                self.batches.append(command.batch)
            elif isinstance(command, commands.Abort):
                self.batches.remove(command.batch)


def _job() -> Told:
    """Two prompts that begin alike, one answer that is stopped, and one that is not."""
    told = Told(20)
    told.take(commands.Paced(StepCost(((1, 0.5),), {0: 0.1}, {})))
    told.ask(0, (*range(8), 50), 3, "first")
    told.ask(1, (*range(8), 60), 2, "second")
    for _ in range(4):
        told.schedule()
        told.step(stopped=frozenset({0}) if told.scheduler.counts.batches > 2 else frozenset())
    assert told.scheduler.is_idle
    return told


def test_a_run_is_the_same_again() -> None:
    told = _job()
    replay = replay_all(told.limits, told.records)
    assert replay.scheduler.counts.batches == told.scheduler.counts.batches
    assert replay.scheduler.counts.shared_tokens == told.scheduler.counts.shared_tokens == 8


def test_a_pace_without_news_is_not_noted() -> None:
    told = Told(20)
    for seconds in (0.5, 0.5, 0.25):
        told.take(commands.Paced(StepCost(((1, seconds),), {0: 0.1}, {})))
    assert len([each for each in told.records if isinstance(each, records.PacedRecord)]) == 2


def _first_difference(told: Told, changed: list[Record]) -> tuple[int, str]:
    replay = Replay(told.limits, page_tokens=4)
    for number, record in enumerate(changed):
        if difference := replay.take(record):
            return number, difference
    raise AssertionError("nothing is different")


def _where(told: Told, kind: type) -> int:
    return next(n for n, record in enumerate(told.records) if isinstance(record, kind))


def test_another_decision_is_named_with_its_event() -> None:
    told = _job()
    place = _where(told, records.Scheduled)
    old = told.records[place]
    assert isinstance(old, records.Scheduled)
    assert old.out is not None
    (batch,) = old.out
    assert isinstance(batch, records.Batched)
    other = msgspec.structs.replace(batch, rows=(1,))
    told.records[place] = records.Scheduled((other,))
    number, difference = _first_difference(told, told.records)
    assert number == place
    assert "it was Batched(batch=0, rows=(1,)" in difference
    assert "and is Batched(batch=0, rows=(0,)" in difference


def test_an_event_that_is_missing_or_comes_twice_is_noticed() -> None:
    told = _job()
    for kind in (
        records.JoinedRecord,
        records.SubmittedRecord,
        records.Scheduled,
        records.SteppedRecord,
    ):
        place = _where(told, kind)
        without = [*told.records[:place], *told.records[place + 1 :]]
        assert _first_difference(told, without)[0] >= place
    twice = _where(told, records.SteppedRecord)
    doubled = [*told.records[: twice + 1], *told.records[twice:]]
    assert _first_difference(told, doubled) == (twice + 1, "batch 0 is not under way")


def test_sums_that_do_not_hold_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told = _job()

    def broken(_self: Scheduler) -> None:
        raise AssertionError("one page too many")

    monkeypatch.setattr(RecordedScheduler, "validate", broken)
    assert _first_difference(told, told.records) == (
        0,
        "the scheduler's sums do not hold: one page too many",
    )


def test_a_call_that_failed_is_noted_and_fails_again() -> None:
    told = _job()
    with pytest.raises(KeyError):
        told.take(commands.HomeLost(9))
    assert told.records[-1] == records.Lost(9, None)
    place = len(told.records) - 1
    number, difference = _first_difference(told, told.records)
    assert (number, difference) == (place, "the scheduler fails, as in the run: KeyError: 9")
    told.records[-1] = records.Lost(9, ())
    assert "but not in the run" in _first_difference(told, told.records)[1]
    told.records[-1] = records.Lost(0, None)
    assert "does not fail now" in _first_difference(told, told.records)[1]
    assert told.story("first")[-1] == "the scheduler failed"


def test_the_story_of_an_answer() -> None:
    told = _job()
    assert told.story("first") == [
        "submitted as 'first': 9 prompt tokens, at most 3 new ones",
        "begins in batch 0 at home 0: 9 tokens",
        "token 1 is 1 (batch 0)",
        "steps in batch 1 at home 0",
        "token 2 is 1 (batch 1)",
        "steps in batch 2 at home 0",
        "token 3 is 1, which ends a stop string (batch 2)",
        "its KV at home 0 is freed",
        "finished: stop",
    ]
    assert told.story("0") == told.story("first")
    assert told.story("second")[:2] == [
        "submitted as 'second': 9 prompt tokens, at most 2 new ones",
        "begins in batch 1 at home 0: 1 tokens, behind 8 of sequence 0",
    ]
    assert told.story("nobody") == []


def test_the_story_of_a_loss() -> None:
    told = Told(8, 8)
    told.ask(0, tuple(range(5)), 4, "a")
    told.schedule()
    told.take(commands.HomeLost(0))
    told.schedule()
    told.step()
    assert told.story("a")[1:] == [
        "begins in batch 0 at home 0: 5 tokens",
        "home 0 is lost with its KV: it waits to begin again",
        "batch 0 is stopped",
        "begins in batch 1 at home 1: 5 tokens",
        "token 1 is 1 (batch 1)",
    ]


def test_the_story_of_what_is_given_up() -> None:
    told = Told(8)
    told.ask(0, (1, 2), 4, "a")
    told.schedule()
    told.ask(1, (3, 4), 4, "b")
    told.scheduler.drop_waiting()
    told.scheduler.renewed()
    assert told.story("b")[-1] == "given up while it waited"
    assert told.story("a")[-1] == "given up: all that was under way was left"


def test_the_story_of_what_nobody_wants() -> None:
    told = Told(8)
    told.ask(0, (1, 2), 4, "a")
    told.schedule()
    told.ask(1, (3, 4), 4, "b")
    told.take(commands.Withdrawn(frozenset({0, 1})))
    told.step()
    withdrawn = "withdrawn: nobody wants its answer any more"
    assert told.story("b")[1:] == [withdrawn]
    freed = "its KV at home 0 is freed"
    assert told.story("a")[2:] == [withdrawn, "token 1 is 1 (batch 0)", freed]


def test_the_story_of_a_draft() -> None:
    told = Told(20, limits=BatchLimits(4, 1, 100, drafts=DraftLimits(2)))
    told.ask(0, (1, 1, 1, 1, 1), 9, "a")
    told.schedule()
    told.step()
    told.schedule()
    told.take(commands.Stepped(told.batches.pop(), ((1, 1, 1),)))
    assert told.story("a")[-4:] == [
        "steps in batch 1 at home 0, 2 tokens guessed",
        "token 2 is 1 (batch 1)",
        "token 3 is 1 (batch 1)",
        "token 4 is 1 (batch 1)",
    ]
    assert replay_all(told.limits, told.records).scheduler.counts.accepted_tokens == 2


def test_a_story_is_known_by_number_where_its_beginning_is_lost() -> None:
    told = _job()
    later = told.records[_where(told, records.SteppedRecord) :]
    assert [line.text for line in story("first", enumerate(later))] == []
    assert next(story("0", enumerate(later))).text == "steps in batch 1"
