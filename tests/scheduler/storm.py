"""Random storms of events; every invariant after every event; every request answered once."""

from itertools import takewhile

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glinthawk.core.batch import Batch, Span
from glinthawk.core.pooling import PooledRows, Pooling
from glinthawk.core.rope import LengthRope
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Phase, Request, Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits
from glinthawk.scheduler.commands import (
    Abort,
    Command,
    Finish,
    HomeJoined,
    HomeLost,
    Paced,
    Release,
    Step,
    Stepped,
    Submitted,
    Withdrawn,
)
from glinthawk.scheduler.kv_budget import KVBudget
from glinthawk.scheduler.scheduler import Scheduler
from glinthawk.scheduler.step_cost import StepCost

__all__ = ["EOS", "RARELY", "Storm", "make_sequence", "short_answers"]

EOS = 7
RARELY = st.integers(0, 9).map(lambda number: number == 0)
#: None; all there is to guess; as much as pays where rows are nearly free, or dear.
DRAFTS = st.sampled_from(
    [
        None,
        DraftLimits(3),
        DraftLimits(5, ((1, 1.0), (64, 1.5))),
        DraftLimits(2, ((1, 0.1), (2, 1.0)), 0.5),
    ]
)
#: Rotation by length, from the seventh token on; with it, older KV is worth nothing, or is kept.
ROPES = st.sampled_from([None, LengthRope(6, renews=True), LengthRope(6, renews=False)])


class Storm(RuleBasedStateMachine):
    """Plays node and homes: keeps its own books of KV and compares them with the scheduler's."""

    @initialize(
        batch_size=st.integers(1, 6),
        in_flight=st.integers(1, 4),
        tokens=st.integers(1, 40),
        homes=st.lists(st.integers(4, 12), min_size=1, max_size=3),
        optimistic=st.booleans(),
        scored_rows=st.integers(1, 20),
        drafts=DRAFTS,
        rope=ROPES,
    )
    def begin(
        self,
        batch_size: int,
        in_flight: int,
        tokens: int,
        homes: list[int],
        optimistic: bool,
        scored_rows: int,
        drafts: DraftLimits | None,
        rope: LengthRope | None,
    ) -> None:
        self.limits = BatchLimits(
            batch_size, in_flight, tokens, scored_rows=scored_rows, drafts=drafts, rope=rope
        )
        self.rotated: dict[tuple[int, int], list[int]] = {}  # home, sequence -> lengths
        self.scored: dict[int, list[int]] = {}  # sequence -> positions of rows, as they were scored
        self.pooled: dict[int, list[int]] = {}  # likewise
        self.scheduler = self.make_scheduler(short_answers() if optimistic else None)
        self.batches: list[Batch] = []
        self.kv: dict[int, dict[int, list[int]]] = {}  # home -> sequence -> tokens stored
        self.asked: dict[int, Sequence] = {}
        self.finished: list[int] = []
        self.left: set[int] = set()  # withdrawn before they had ended
        self.num_homes = self.num_asked = 0
        for pages in homes:
            self.add_home(pages)

    def make_scheduler(self, lengths: AnswerLengths | None) -> Scheduler:
        return Scheduler(self.limits, lengths, page_tokens=4)

    @property
    def longest(self) -> int:
        """Every home holds this many tokens, so that no request is impossible."""
        return 4 * 4

    def prompt_of(self, length: int, kind: int) -> tuple[int, ...]:
        """Prompts of one kind begin alike."""
        return tuple(100 * kind + token for token in range(length))

    @rule(pages=st.integers(4, 12))
    @precondition(lambda self: len(self.kv) < 4)
    def add_home(self, pages: int) -> None:
        self.carry_out(self.scheduler.handle(HomeJoined(self.num_homes, pages, page_tokens=4)))
        self.kv[self.num_homes] = {}
        self.num_homes += 1

    @rule(
        sizes=st.lists(
            st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2)), max_size=6
        ),
        ends=st.booleans(),
        is_scored=st.booleans(),
        priority=st.integers(-1, 1),
        pooled=st.sampled_from(("last", "mean", "first", None, None, None)),
    )
    def submit(
        self,
        sizes: list[tuple[int, int, int]],
        ends: bool,
        is_scored: bool,
        priority: int,
        pooled: PooledRows | None,
    ) -> None:
        for length, wanted, kind in sizes:
            prompt = self.prompt_of(length, kind)
            if pooled is None:
                self.ask(prompt, wanted, ends, is_scored, priority)
            else:
                self.ask(prompt, 0, ends, False, priority, Pooling(pooled))

    @rule(data=st.data())
    @precondition(lambda self: self.asked)
    def withdraw(self, data: st.DataObject) -> None:
        numbers = data.draw(st.sets(st.sampled_from(sorted(self.asked)), max_size=4))
        commands = self.scheduler.handle(Withdrawn(frozenset(numbers)))
        self.left |= {number for number in numbers if number not in self.finished}
        self.carry_out(commands)
        stepping = {span.sequence.id for batch in self.batches for span in batch.spans}
        for number in self.left - stepping:
            self.is_gone(number)

    def is_gone(self, number: int) -> None:
        assert self.asked[number].phase is Phase.FINISHED
        assert number not in {sequence.id for sequence in self.scheduler.waiting}
        kept = {number for budget in self.budgets() for number in budget.kept}
        assert all(number not in kv or number in kept for kv in self.kv.values())

    def budgets(self) -> list[KVBudget]:
        return list(self.scheduler._table.budgets.values())

    def ask(
        self,
        prompt: tuple[int, ...],
        wanted: int,
        ends: bool,
        is_scored: bool = False,
        priority: int = 0,
        pooling: Pooling | None = None,
    ) -> None:
        number = self.num_asked
        self.num_asked += 1
        max_tokens = min(wanted, self.longest - len(prompt) + 1)
        params = SamplingParams(max_tokens=max_tokens, prompt_logprobs=0 if is_scored else None)
        eos = frozenset({EOS}) if ends else frozenset()
        request = Request(
            number,
            prompt,
            params,
            0,
            max_tokens,
            eos,
            priority=priority,
            pooling=pooling,
            adapter=number % 5 // 4,  # so that most may share
        )
        self.asked[number] = Sequence(request)
        self.carry_out(self.scheduler.handle(Submitted(self.asked[number])))

    @rule(dense=st.floats(0.01, 1), far=st.floats(0, 1), link=st.floats(0, 1))
    def measure(self, dense: float, far: float, link: float) -> None:
        attend_s = {home: far for home in self.kv if home} | {0: 0.01}
        step_cost = StepCost(((1, dense), (4, 2 * dense)), attend_s, dict.fromkeys(self.kv, link))
        self.carry_out(self.scheduler.handle(Paced(step_cost)))

    @rule()
    def schedule(self) -> None:
        self.carry_out(self.scheduler.schedule())

    @rule(data=st.data())
    @precondition(lambda self: self.batches)
    def finish_step(self, data: st.DataObject) -> None:
        batch = self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1)))
        self.take_scores(batch)
        tokens = tuple(_draw_tokens(data, span) for span in batch.spans)
        stopped = frozenset(s.sequence.id for s in batch.spans if data.draw(RARELY))
        self.carry_out(self.scheduler.handle(Stepped(batch, tokens, stopped)))

    @rule(data=st.data())
    @precondition(lambda self: len(self.kv) > 1 and len(self.asked) > 8)
    def lose_home(self, data: st.DataObject) -> None:
        home = data.draw(st.sampled_from(sorted(self.kv)))
        commands = self.scheduler.handle(HomeLost(home))
        del self.kv[home]
        self.carry_out(commands)

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Step(batch):
                    self.start(batch)
                case Release(home, sequences):
                    for sequence in sequences:
                        self.kv[home].pop(sequence)
                case Abort(batch):
                    self.batches.remove(batch)
                case Finish(sequence):
                    self.finished.append(sequence.id)
                    # Every row once, whatever was aborted or given up between.
                    scored = self.scored.get(sequence.id, [])
                    assert scored == list(range(sequence.request.num_to_score))
                    assert self.pooled.get(sequence.id, []) == list(sequence.request.pooled_rows)

    def take_scores(self, batch: Batch) -> None:
        for span in batch.spans:
            assert span.num_scored == 0 or span.start <= span.scored.start
            if span.num_scored:
                self.scored.setdefault(span.sequence.id, []).extend(span.scored)
            if span.num_pooled:
                assert span.pooled.start >= span.start
                assert span.pooled.stop <= span.start + span.length
                self.pooled.setdefault(span.sequence.id, []).extend(span.pooled)

    def start(self, batch: Batch) -> None:
        assert batch.spans
        assert len(batch.spans) <= self.limits.batch_size
        news = [span for span in batch.spans if _is_new(span)]
        most = max(self.limits.batch_tokens, len(batch.spans))
        assert batch.num_tokens <= most or len(news) == 1
        assert all(span.start > 0 for span in batch.extends)
        assert all(span.start == 0 for span in batch.prompts)
        num_scored = sum(span.num_scored for span in batch.spans)
        assert num_scored <= self.limits.scored_rows
        for span in batch.spans:
            self.check_kv(span)
            is_whole = span.start + span.length == span.sequence.length + len(span.draft)
            samples = is_whole and span.sequence.request.max_tokens > 0
            assert span.num_sampled == (1 + len(span.draft) if samples else 0)
            assert not span.draft or span.is_decode
            if not is_whole:  # a chunk fills the batch, and no more than that
                assert batch.num_tokens == most or num_scored == self.limits.scored_rows
        for span in batch.spans:
            kept = span.sequence.tokens(0, span.start) + span.tokens
            self.kv[span.home][span.sequence.id] = kept
            self.check_rotation(span)
        self.batches.append(batch)

    def check_kv(self, span: Span) -> None:
        """What a span continues is there: written by an earlier step, and of the same tokens."""
        stored = self.kv[span.home].get(span.sequence.id)
        tokens = span.sequence.tokens(0, span.sequence.length)
        if span.source is not None:
            assert stored is None
            stepping = {s.sequence.id for b in self.batches for s in b.spans if _is_new(s)}
            assert span.source not in stepping
            assert self.adapter_of(span.source) == span.sequence.request.adapter
            assert self.kv[span.home][span.source][: span.start] == tokens[: span.start]
        elif span.start == 0:
            assert stored is None
        else:  # a step that was aborted is stepped again
            assert stored is not None
            assert stored[: span.start] == tokens[: span.start]

    def adapter_of(self, number: int) -> int:
        return self.asked[number].request.adapter

    def check_rotation(self, span: Span) -> None:
        """All keys that a span sees are rotated as if its sequence were alone."""
        rope, sequence = self.limits.rope, span.sequence
        if rope is None:
            return
        whose = sequence.id if span.source is None else span.source
        earlier = self.rotated.get((span.home, whose), [])[: span.start]
        lengths = self.rotated[span.home, sequence.id] = earlier + rope.lengths(span)
        if rope.renews:
            assert len({length > rope.original for length in lengths}) == 1
        else:
            least = max(len(sequence.request.prompt), rope.original)
            alone = [max(least, place + 1) for place in range(len(lengths))]
            assert [max(length, rope.original) for length in lengths] == alone

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.validate()
        for sequence in self.asked.values():
            is_over = sequence.id in self.finished
            assert (sequence.phase is Phase.FINISHED) == is_over or sequence.id in self.left
        assert len(self.finished) == len(set(self.finished))

    def teardown(self) -> None:
        """Left alone, the scheduler answers everything it was asked."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            self.carry_out(self.scheduler.schedule())
            self.books_agree()
            if not self.batches:
                break
            batch = self.batches.pop()
            self.take_scores(batch)
            self.carry_out(self.scheduler.handle(Stepped(batch, _ones(batch))))
        for number in self.left:
            self.is_gone(number)
        # What is withdrawn in its last step may have its answer still.
        assert self.asked.keys() - self.left <= set(self.finished) <= self.asked.keys()
        assert self.scheduler.is_idle
        kept = {home: budget.kept.keys() for home, budget in self.scheduler._table.budgets.items()}
        assert {home: sequences.keys() for home, sequences in self.kv.items()} == kept


def _draw_tokens(data: st.DataObject, span: Span) -> tuple[int, ...]:
    """What follows: some of its draft, and one token, if it is sampled after at all."""
    right = data.draw(st.integers(0, len(span.draft)))
    last = EOS if data.draw(RARELY) else 1
    return (*span.draft[:right], last)[: span.num_sampled]


def _ones(batch: Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(map(_ones_after, batch.spans))


def _ones_after(span: Span) -> tuple[int, ...]:
    """What follows where 1 always follows: a guess of another token ends it."""
    right = sum(1 for _ in takewhile(lambda token: token == 1, span.draft))
    return ((1,) * (right + 1))[: span.num_sampled]


def _is_new(span: Span) -> bool:
    """A prompt, be it only the one token behind a prefix that others have."""
    return not span.is_decode or span.source is not None


def short_answers() -> AnswerLengths:
    """Experience that makes the scheduler take in too much: it must pre-empt."""
    lengths = AnswerLengths()
    for number in range(50):
        sequence = make_sequence(number, 1, 100)
        sequence.output.append(1)
        lengths.ended(sequence)
    return lengths


def make_sequence(number: int, prompt: int, max_tokens: int, priority: int = 0) -> Sequence:
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    tokens = (1000 + number, *range(1, prompt))  # no two begin alike
    eos = frozenset({EOS})
    return Sequence(Request(number, tokens, params, 0, max_tokens, eos, priority=priority))
