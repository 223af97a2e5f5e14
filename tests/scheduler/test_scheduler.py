"""A storm of events, and what the scheduler decides where a pencil can tell."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glinthawk.core.batch import Batch
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import FinishReason, Phase, Request, Sequence
from glinthawk.scheduler.batch_limits import BatchLimits
from glinthawk.scheduler.commands import (
    Command,
    Finish,
    HomeJoined,
    Release,
    Step,
    Stepped,
    Submitted,
    Withdrawn,
)
from glinthawk.scheduler.scheduler import Scheduler
from plain_peak import peak_tokens
from storm import EOS, Storm, make_sequence, short_answers

TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=12),
)
def test_peak_is_that_of_a_step_by_step_count(pairs: list[tuple[int, int]]) -> None:
    steps = range(1, 52)
    counted = max(sum(now + t for now, left in pairs if left >= t) for t in steps)
    assert peak_tokens(pairs, page_tokens=1) == counted


def _scheduler(*pages: int, batch_tokens: int = 100) -> Scheduler:
    scheduler = Scheduler(BatchLimits(8, 1, batch_tokens))
    for home, num_pages in enumerate(pages, start=1):
        scheduler.handle(HomeJoined(home, num_pages, page_tokens=4))
    return scheduler


def _only_batch(commands: list[Command]) -> Batch:
    (command,) = commands
    assert isinstance(command, Step)
    return command.batch


def test_long_answers_begin_first() -> None:
    scheduler = _scheduler(100, batch_tokens=4)
    for number, max_tokens in enumerate((3, 9, 5)):
        scheduler.handle(Submitted(make_sequence(number, 4, max_tokens)))
    order = []
    for _ in range(3):
        batch = _only_batch(scheduler.schedule())
        order += [span.sequence.id for span in batch.prompts]
        scheduler.handle(Stepped(batch, ((1,),) * len(batch.spans)))
    assert order[0] == 1


def test_sequences_are_placed_where_the_smallest_share_is_used() -> None:
    scheduler = _scheduler(10, 20)
    for number in range(3):
        scheduler.handle(Submitted(make_sequence(number, 8, 8)))
    batch = _only_batch(scheduler.schedule())
    assert sorted(span.home for span in batch.prompts) == [1, 2, 2]


def test_a_prompt_longer_than_the_budget_goes_in_chunks_beside_decode_rows() -> None:
    scheduler = _scheduler(100, batch_tokens=10)
    scheduler.handle(Submitted(make_sequence(0, 2, 8)))
    _take(scheduler, [(0, 2, 1)])
    scheduler.handle(Submitted(make_sequence(1, 25, 9)))
    scheduler.handle(Submitted(make_sequence(2, 2, 2)))
    _take(scheduler, [(2, 1, 1), (0, 9, 0)])
    _take(scheduler, [(3, 1, 1), (9, 9, 0)])
    _take(scheduler, [(4, 1, 1), (18, 7, 1), (0, 2, 1)])
    _take(scheduler, [(5, 1, 1), (25, 1, 1), (2, 1, 1)])


def test_beside_a_chunk_of_one_token_no_prompt_exceeds_the_budget() -> None:
    scheduler = _scheduler(100, batch_tokens=2)
    scheduler.handle(Submitted(make_sequence(0, 1, 8)))
    _take(scheduler, [(0, 1, 1)])
    scheduler.handle(Submitted(make_sequence(1, 5, 9)))
    _take(scheduler, [(1, 1, 1), (0, 1, 0)])
    scheduler.handle(Submitted(make_sequence(2, 2, 2)))
    _take(scheduler, [(2, 1, 1), (1, 1, 0)])


def _take(scheduler: Scheduler, spans: list[tuple[int, int, int]]) -> None:
    """A step; its spans are these: (start, length, tokens that it yields)."""
    batch = _only_batch(scheduler.schedule())
    assert [(span.start, span.length, span.num_sampled) for span in batch.spans] == spans
    tokens = tuple([(1,) * span.num_sampled for span in batch.spans])
    scheduler.handle(Stepped(batch, tokens))
    scheduler.validate()


def test_a_stop_string_ends_an_answer() -> None:
    scheduler = _scheduler(10)
    sequence = make_sequence(0, 2, 9)
    scheduler.handle(Submitted(sequence))
    batch = _only_batch(scheduler.schedule())
    commands = scheduler.handle(Stepped(batch, ((1,),), frozenset({0})))
    assert commands == [Release(1, (0,)), Finish(sequence)]
    assert sequence.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("tokens", "stopped", "output", "reason"),
    [
        ((), False, [], None),
        ((1, 2, 3), False, [1, 2, 3], None),
        ((1, EOS, 3), False, [1, EOS], FinishReason.STOP),
        ((1, 2), True, [1, 2], FinishReason.STOP),
        ((1, 2, 3, 4, 5), False, [1, 2, 3, 4], FinishReason.LENGTH),
    ],
)
def test_a_span_yields_no_token_or_several(
    tokens: tuple[int, ...], stopped: bool, output: list[int], reason: FinishReason | None
) -> None:
    scheduler = _scheduler(10)
    sequence = make_sequence(0, 2, 4)
    scheduler.handle(Submitted(sequence))
    batch = _only_batch(scheduler.schedule())
    scheduler.handle(Stepped(batch, (tokens,), frozenset({0} if stopped else ())))
    assert (sequence.output, sequence.finish_reason) == (output, reason)
    scheduler.validate()


def test_what_waits_for_a_page_can_be_preempted_meanwhile() -> None:
    scheduler = Scheduler(BatchLimits(8, 3, 100), short_answers())
    scheduler.handle(HomeJoined(0, 3, page_tokens=4))
    for number in range(3):
        scheduler.handle(Submitted(make_sequence(number, 1, 9)))
    scheduler.handle(Stepped(_only_batch(scheduler.schedule()), ((1,), (1,), (1,))))
    for _ in range(2):  # one decode row a batch, until each page but the next token's is full
        for command in scheduler.schedule():
            assert isinstance(command, Step)
            scheduler.handle(Stepped(command.batch, ((1,),)))
    old, _, young = [command.batch for command in scheduler.schedule()]
    scheduler.handle(Stepped(young, ((1,),)))
    assert scheduler.schedule() == []  # it needs a page; the others may yet end
    scheduler.handle(Stepped(old, ((1,),)))
    release, step = scheduler.schedule()
    assert release == Release(0, (young.spans[0].sequence.id,))
    assert step.batch.spans[0].sequence is old.spans[0].sequence
    scheduler.validate()


def test_smaller_priorities_begin_first() -> None:
    scheduler = _scheduler(20, batch_tokens=4)
    for number, priority in enumerate((5, 0, 5)):
        scheduler.handle(Submitted(make_sequence(number, 4, 9 + number, priority)))
    batch = _only_batch(scheduler.schedule())
    assert [span.sequence.id for span in batch.spans] == [1]


def test_smaller_priorities_keep_their_kv_though_they_came_later() -> None:
    scheduler = Scheduler(BatchLimits(2, 1, 100), short_answers())
    scheduler.handle(HomeJoined(0, 3, page_tokens=4))
    scheduler.handle(Submitted(make_sequence(0, 2, 9, priority=5)))
    assert _step(scheduler) == ([], [0])
    scheduler.handle(Submitted(make_sequence(1, 2, 9, priority=0)))
    steps = [_step(scheduler) for _ in range(5)]  # each has a page, and in time both need another
    assert ([Release(0, (0,))], [1]) in steps


def _step(scheduler: Scheduler) -> tuple[list[Command], list[int]]:
    """What is freed before the next batch, and its sequences."""
    *released, step = scheduler.schedule()
    assert isinstance(step, Step)
    scheduler.handle(Stepped(step.batch, ((1,),) * len(step.batch.spans)))
    return released, [span.sequence.id for span in step.batch.spans]


def test_who_is_withdrawn_in_a_step_leaves_after_it() -> None:
    scheduler = _scheduler(20)
    for number in range(3):
        scheduler.handle(Submitted(make_sequence(number, 4, 9)))
    batch = _only_batch(scheduler.schedule())
    assert scheduler.handle(Withdrawn(frozenset({0, 1, 77}))) == []
    assert scheduler.handle(Stepped(batch, ((1,),) * 3)) == [Release(1, (0, 1))]
    assert [span.sequence.id for span in _only_batch(scheduler.schedule()).spans] == [2]
    scheduler.validate()


def _family(first: int, count: int, own: int = 4) -> list[Sequence]:
    """Sequences with 8 tokens in common, two pages, and ``own`` of their own."""
    params = SamplingParams(temperature=0, max_tokens=3)
    common = tuple(range(8))
    return [
        Sequence(Request(n, (*common, *range(100 * n, 100 * n + own)), params, 0, 3))
        for n in range(first, first + count)
    ]


def test_a_common_prefix_is_prefilled_and_held_once() -> None:
    scheduler = _scheduler(20)
    for sequence in _family(1, 4):
        scheduler.handle(Submitted(sequence))
    first = _only_batch(scheduler.schedule())
    assert [(span.start, span.length) for span in first.spans] == [(0, 12)]
    scheduler.handle(Stepped(first, ((1,),)))
    second = _only_batch(scheduler.schedule())
    shared = [span for span in second.extends if span.source is not None]
    assert [(span.source, span.start, span.length) for span in shared] == [(1, 8, 4)] * 3
    # Each has a page of its own, and the first one's next token begins another.
    assert sum(len(budget.pages.held) for budget in scheduler._table.budgets.values()) == 4
    assert scheduler._table.budgets[1].pages.num_used == 2 + 4 + 1
    scheduler.handle(Stepped(second, ((1,),) * 4))
    scheduler.validate()


def test_a_prefix_outlives_the_sequence_it_was_computed_for() -> None:
    scheduler = _scheduler(20)
    first, second, third = _family(1, 3)
    scheduler.handle(Submitted(first))
    scheduler.handle(Stepped(_only_batch(scheduler.schedule()), ((1,),)))
    scheduler.handle(Submitted(second))
    batch = _only_batch(scheduler.schedule())
    stopped = frozenset({first.id})
    scheduler.handle(Stepped(batch, ((1,),) * len(batch.spans), stopped))
    assert first.phase is Phase.FINISHED
    scheduler.handle(Submitted(third))
    batch = _only_batch(scheduler.schedule())
    assert [span.source for span in batch.extends if span.length > 1] == [second.id]


def test_a_short_prefix_is_computed_again() -> None:
    """Attending 60 tokens at home to save 8 would cost more than it saves."""
    scheduler = _scheduler(60)
    for sequence in _family(1, 2, own=60):
        scheduler.handle(Submitted(sequence))
    batch = _only_batch(scheduler.schedule())
    assert [span.start for span in batch.prompts] == [0]
    scheduler.handle(Stepped(batch, ((1,),)))
    batch = _only_batch(scheduler.schedule())
    assert [span.source for span in batch.spans] == [None, None]


def test_a_small_group_stays_together_and_a_large_one_is_spread() -> None:
    scheduler = Scheduler(BatchLimits(64, 1, 4096))
    for home in (1, 2):
        scheduler.handle(HomeJoined(home, 400, page_tokens=4))
    for sequence in _family(1, 30):
        scheduler.handle(Submitted(sequence))
    homes: dict[int, list[int]] = {}
    for _ in range(6):
        batch = _only_batch(scheduler.schedule())
        for span in batch.spans:
            if not span.is_decode:
                homes.setdefault(span.home, []).append(span.sequence.id)
        scheduler.handle(Stepped(batch, ((1,),) * len(batch.spans)))
        if sum(map(len, homes.values())) == 30:
            break
    assert len(homes[1]) >= 4
    assert abs(len(homes[1]) - len(homes[2])) < 10


def test_a_prefix_is_kept_while_others_wait_for_it_and_given_up_when_pages_run_out() -> None:
    scheduler = Scheduler(BatchLimits(1, 1, 100), page_tokens=4)
    scheduler.handle(HomeJoined(0, 8, page_tokens=4))
    first, second = _family(1, 2)
    large = make_sequence(9, 21, 2)
    for sequence in (first, second, large):
        scheduler.handle(Submitted(sequence))
    batch = _only_batch(scheduler.schedule())
    assert scheduler.handle(Stepped(batch, ((1,),), frozenset({first.id}))) == [Finish(first)]
    batch = _only_batch(scheduler.schedule())
    assert batch.spans[0].source == first.id
    # Nobody else begins like it: the second leaves at once, the first when the room is needed.
    done = scheduler.handle(Stepped(batch, ((1,),), frozenset({second.id})))
    assert done == [Release(0, (second.id,)), Finish(second)]
    release, step = scheduler.schedule()
    assert release == Release(0, (first.id,))
    assert isinstance(step, Step)
    scheduler.validate()


def test_prompts_as_long_as_the_budget_do_not_wait_for_decode_rows_to_end() -> None:
    scheduler = _scheduler(400, batch_tokens=50)
    for number in range(4):
        scheduler.handle(Submitted(make_sequence(number, 50, 9)))
    sizes = []
    for _ in range(4):
        batch = _only_batch(scheduler.schedule())
        sizes.append(len(batch.spans))
        scheduler.handle(Stepped(batch, ((1,),) * len(batch.spans)))
    assert sizes == [1, 2, 3, 4]
