"""Room at a home: what is kept between questions answers them as counting everything anew does."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.scheduler.answer_lengths import AnswerLengths
from glinthawk.scheduler.kv_budget import KVBudget
from glinthawk.scheduler.peak_forecast import PeakForecast
from plain_peak import peak_tokens

PAIRS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), max_size=20)
PAGE = 4


@given(PAIRS, PAIRS, st.tuples(st.integers(1, 60), st.integers(1, 14)), st.integers(1, 32))
def test_an_outlook_says_the_peak_of_all(
    first: list[tuple[int, int]], later: list[tuple[int, int]], new: tuple[int, int], page: int
) -> None:
    now, left = np.array(first, np.int64).reshape(-1, 2).T
    forecast = PeakForecast(page, now, left)
    for pair in later:
        forecast.add(*pair)
    assert forecast.peak_with(*new) == peak_tokens([*first, *later, new], page)


def _sequence(number: int, prompt: int, most: int) -> Sequence:
    tokens = (1000 + number, *range(1, prompt))
    return Sequence(
        Request(number, tokens, SamplingParams(max_tokens=most), 0, most, frozenset({7}))
    )


def _answer(number: int, most: int, part: float, stops: bool) -> Sequence:
    """One that has this part of its longest answer."""
    ends = frozenset({7}) if stops else frozenset()
    request = Request(number, (1,), SamplingParams(max_tokens=most), 0, most, ends)
    return Sequence(request, output=range(int(part * most)))  # type: ignore[arg-type]


def _truth(budget: KVBudget, new: Sequence, lengths: AnswerLengths) -> int | None:
    pairs = [(s.length - s.shared, lengths.expect_remaining(s)) for s in budget.living.values()]
    peak = peak_tokens([*pairs, (new.length, lengths.expect_remaining(new))], PAGE)
    return peak if peak <= budget.pages.num_tokens or not budget.living else None


def _was_refused(budget: KVBudget, new: Sequence, lengths: AnswerLengths) -> bool:
    tokens, left = budget._refused or (1 << 30, 0)
    return new.length >= tokens and lengths.expect_remaining(new) >= left


MOVES = st.tuples(st.sampled_from(["admit", "step", "forget", "learn"]), st.integers(1, 30))


@given(st.lists(MOVES, max_size=60), st.integers(4, 60))
def test_a_room_answers_as_if_it_counted_anew(moves: list[tuple[str, int]], pages: int) -> None:
    budget, lengths = KVBudget(pages, PAGE), AnswerLengths()
    for number, (move, size) in enumerate(moves):
        new = _sequence(number, 1 + size % 7, size)
        start = budget.start(new)
        peak = budget.peak_with(new, start, lengths)
        truth = _truth(budget, new, lengths)
        # What asks for no less than one that was refused is refused while others only step.
        assert peak == truth or (peak is None and _was_refused(budget, new, lengths))
        living = list(budget.living.values())
        if move == "admit" and peak is not None and budget.fits(start):
            budget.admit(new, start, lengths)
        elif move == "step":
            for one in living:
                if one.remaining > 1 and budget.pages.grow(one.id, one.length + 1):
                    budget.stepped(one)
                    one.output.append(1)
        elif move == "forget" and living:
            budget.forget(living[size % len(living)])
        elif move == "learn":
            new.output.append(1)
            lengths.ended(new)


ANSWERS = st.tuples(st.integers(1, 10**6), st.floats(0, 1), st.booleans())


@given(st.lists(ANSWERS, max_size=40), st.lists(ANSWERS, max_size=30))
def test_of_many_as_much_is_expected_as_of_each(
    ended: list[tuple[int, float, bool]], living: list[tuple[int, float, bool]]
) -> None:
    lengths = AnswerLengths()
    for number, (most, part, _) in enumerate(ended):
        lengths.ended(_answer(number, most, part, stops=True))
    sequences = [_answer(number, *one) for number, one in enumerate(living)]
    columns = [(s.request.max_tokens, len(s.output), bool(s.request.stop_ids)) for s in sequences]
    longest, produced, stops = np.array(columns, np.int64).reshape(-1, 3).T
    expected = lengths.expect_all(longest, produced, stops.astype(np.bool_))
    assert expected.tolist() == [lengths.expect_remaining(s) for s in sequences]


def test_a_refusal_ends_when_shorter_answers_are_expected() -> None:
    budget, lengths = KVBudget(10, PAGE), AnswerLengths()
    first, second = _sequence(0, 4, 30), _sequence(1, 4, 30)
    budget.admit(first, budget.start(first), lengths)
    assert budget.peak_with(second, budget.start(second), lengths) is None
    for number in range(2, 20):  # elsewhere
        ended = _sequence(number, 4, 30)
        ended.output.append(1)
        lengths.ended(ended)
    assert budget.peak_with(second, budget.start(second), lengths) is not None
