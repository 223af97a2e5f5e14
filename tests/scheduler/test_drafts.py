"""Drafts: where they may be, how long they are, and what is learned of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.scheduler.batch_limits import BatchLimits, DraftLimits
from glinthawk.scheduler.commands import HomeJoined, Step, Stepped, Submitted
from glinthawk.scheduler.draft_worth import DraftWorth, HitRate
from glinthawk.scheduler.scheduler import Scheduler

_PAGE = 8
#: The time of a step does not depend on its rows, or on nothing else.
_FREE, _DEAR = ((1, 1.0), (64, 1.0)), ((1, 1.0), (64, 64.0))


class _Job:
    """One sequence that repeats tokens 1 to ``period``, stepped by hand."""

    def __init__(
        self, drafts: DraftLimits | None, max_tokens: int = 40, pages: int = 20, **limits: int
    ) -> None:
        sizes = {"batch_size": 4, "batches_in_flight": 1, "batch_tokens": 100, **limits}
        self.scheduler = Scheduler(BatchLimits(**sizes, drafts=drafts), page_tokens=_PAGE)
        self.scheduler.handle(HomeJoined(0, pages, _PAGE))
        self.max_tokens = max_tokens

    def ask(self, number: int, prompt: tuple[int, ...], *stops: int) -> Sequence:
        params = SamplingParams(max_tokens=self.max_tokens, stop_token_ids=stops)
        sequence = Sequence(Request(number, prompt, params, 0, self.max_tokens))
        self.scheduler.handle(Submitted(sequence))
        return sequence

    def start(self) -> Batch:
        (step,) = [c for c in self.scheduler.schedule() if isinstance(c, Step)]
        self.scheduler.validate()
        return step.batch

    def step(self, batch: Batch, *tokens: tuple[int, ...]) -> None:
        self.scheduler.handle(Stepped(batch, tokens))
        self.scheduler.validate()


def _begin(job: _Job, *stops: int) -> tuple[Sequence, Span]:
    """A prompt of (1, 2, 3) and again 1, 2; then its first decode row."""
    sequence = job.ask(0, (1, 2, 3, 1, 2), *stops)
    job.step(job.start(), (3,))
    (span,) = job.start().spans
    return sequence, span


def test_a_draft_follows_the_newest_token_and_stays_on_its_page() -> None:
    _, span = _begin(_Job(DraftLimits(7)))
    assert span.tokens == [3, 1, 2]  # at 5, 6 and 7, and a page has 8
    assert (span.start, span.length, span.num_sampled, span.draft) == (5, 3, 3, (1, 2))
    assert span.is_decode


@pytest.mark.parametrize(("most", "draft"), [(1, (1,)), (2, (1, 2)), (9, (1, 2))])
def test_a_draft_is_no_longer_than_it_may_be(most: int, draft: tuple[int, ...]) -> None:
    assert _begin(_Job(DraftLimits(most)))[1].draft == draft


def test_nothing_is_guessed_that_would_follow_the_end() -> None:
    assert _begin(_Job(DraftLimits(7)), 2)[1].draft == (1,)
    assert _begin(_Job(DraftLimits(7), max_tokens=3))[1].draft == (1,)
    assert _begin(_Job(DraftLimits(7), max_tokens=2))[1].draft == ()
    assert _begin(_Job(None))[1].draft == ()


def test_drafts_share_what_is_left_of_the_batch() -> None:
    job = _Job(DraftLimits(7), batch_tokens=11)
    for number in range(2):
        job.ask(number, (1, 2, 3, 1, 2))
    job.step(job.start(), (3,), (3,))
    batch = job.start()
    assert [span.length for span in batch.spans] == [3, 3]
    job = _Job(DraftLimits(7), batch_tokens=10)
    job.ask(0, (1, 2, 3, 1, 2))
    job.ask(1, (1, 2, 3, 1, 2))
    job.step(job.start(), (3,), (3,))
    assert sum(span.length for span in job.start().spans) <= 10


@pytest.mark.parametrize("right", [0, 1, 2])
def test_what_was_right_counts_and_the_rest_is_computed_again(right: int) -> None:
    job = _Job(DraftLimits(7))
    sequence = job.ask(0, (1, 2, 3, 1, 2))
    job.step(job.start(), (3,))
    batch = job.start()
    job.step(batch, (*batch.spans[0].draft[:right], 50))
    assert sequence.output == [3, *(1, 2)[:right], 50]
    assert sequence.num_computed == sequence.length - 1
    counts = job.scheduler.counts
    assert (counts.drafted_tokens, counts.accepted_tokens) == (2, right)
    (span,) = job.start().spans
    assert span.start == sequence.length - 1


def test_drafts_take_no_page() -> None:
    """Each of two sequences could guess more than its page has room for."""
    job = _Job(DraftLimits(7))
    for number in range(2):
        job.ask(number, (1, 2, 1, 2))
    job.step(job.start(), (1,), (1,))
    assert [span.draft for span in job.start().spans] == [(2, 1, 2)] * 2
    assert job.scheduler.num_pages_used(0) == 2


def test_free_rows_are_drafted_and_dear_ones_are_not() -> None:
    assert _begin(_Job(DraftLimits(7, _FREE)))[1].draft
    assert not _begin(_Job(DraftLimits(7, _DEAR)))[1].draft


def test_where_guesses_are_wrong_fewer_are_drafted_until_they_are_right_again() -> None:
    job = _Job(DraftLimits(4, ((1, 1.0), (2, 1.3), (8, 2.0))), max_tokens=200)
    job.ask(0, (1, 2) * 4)
    batch = job.start()
    job.step(batch, (1,))

    def drafted(is_right: bool) -> int:
        count = 0
        for _ in range(24):
            batch = job.start()
            (span,) = batch.spans
            count += len(span.draft)
            place = span.sequence.length % 2
            follows = [(1, 2)[(place + n) % 2] for n in range(span.length)]
            job.step(batch, tuple(follows) if is_right else (span.sequence.output[-1] + 7,))
        return count

    eager = drafted(is_right=True)
    assert eager > 24
    assert drafted(is_right=False) < eager / 4


RATES = st.lists(st.tuples(st.floats(0, 0.97), st.integers(0, 8)), min_size=1, max_size=6)


@given(rates=RATES, more=st.integers(0, 50))
def test_lengths_are_what_there_is_at_most_and_none_where_rows_are_dear(
    rates: list[tuple[float, int]], more: int
) -> None:
    limits = BatchLimits(8, 1, 100)
    sure, longest = [rate for rate, _ in rates], [length for _, length in rates]
    rows = len(rates) + more
    free = DraftWorth(limits, DraftLimits(8, _FREE)).choose(rows, len(sure), sure, longest)
    assert all(0 <= length <= most for length, most in zip(free, longest, strict=True))
    assert DraftWorth(limits, DraftLimits(8, _DEAR)).choose(rows, len(sure), sure, longest) == [
        0
    ] * len(rates)
    assert DraftWorth(limits, DraftLimits(8)).choose(rows, len(sure), sure, longest) == longest


def test_who_waits_for_a_link_drafts_what_who_computes_does_not() -> None:
    limits, curve = BatchLimits(8, 2, 100), ((1, 1.0), (64, 64.0))
    assert not DraftWorth(limits, DraftLimits(8, curve)).may_pay(4, 4)
    assert DraftWorth(limits, DraftLimits(8, curve, link_s=100.0)).may_pay(4, 4)


def test_a_rate_is_what_was_seen_lately() -> None:
    others, rate = HitRate(), HitRate()
    assert rate.expect(others) == 0.5
    for _ in range(20):
        rate.add(4, 4)
    assert rate.expect(others) > 0.9
    for _ in range(20):
        rate.add(0, 1)
    assert rate.expect(others) < 0.2
