"""Pages of sequences dealt among workers: nothing is lost, and every page is used."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from glinthawk.core.pages import Pages
from glinthawk.tier1.kv.token_stripes import Stripes

_SEQUENCES = st.integers(0, 5)


class Dealing(RuleBasedStateMachine):
    """Beside one home of as many pages, which must always count alike."""

    @initialize(
        counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
        page_tokens=st.integers(1, 4),
        stripe_pages=st.integers(1, 3),
        last_share=st.none() | st.sampled_from([0.1, 0.5, 0.75]),
    )
    def begin(
        self, counts: list[int], page_tokens: int, stripe_pages: int, last_share: float | None
    ) -> None:
        self.page_tokens = page_tokens
        shares = last_share and [
            *((1 - last_share) / (len(counts) - 1) for _ in counts[1:]),
            last_share,
        ]
        self.stripes = Stripes(counts, page_tokens, stripe_pages, shares or None)
        self.whole = Pages(sum(counts), page_tokens)
        self.lengths: dict[int, int] = {}

    @rule(sequence=_SEQUENCES, more=st.integers(1, 12))
    def grow(self, sequence: int, more: int) -> None:
        length = self.lengths.get(sequence, 0) + more
        assert self.stripes.grow(sequence, length) == self.whole.grow(sequence, length)
        if len(self.whole.held.get(sequence, ())) * self.page_tokens >= length:
            self.lengths[sequence] = length
        elif not self.whole.held.get(sequence):
            self.whole.release(sequence)

    @rule(source=_SEQUENCES, sequence=_SEQUENCES, num_pages=st.integers(1, 5))
    def share(self, source: int, sequence: int, num_pages: int) -> None:
        num_tokens = num_pages * self.page_tokens
        if num_tokens <= self.lengths.get(source, 0) and sequence not in self.lengths:
            self.stripes.share(source, sequence, num_tokens)
            self.whole.share(source, sequence, num_tokens)
            self.lengths[sequence] = num_tokens

    @rule(sequence=_SEQUENCES)
    def release(self, sequence: int) -> None:
        length = self.lengths.pop(sequence, 0)
        holders = [p for p in range(self.stripes.num_parts) if self.count(sequence, p, length)]
        assert self.stripes.release(sequence) == holders
        self.whole.release(sequence)

    def count(self, sequence: int, part: int, length: int) -> int:
        return self.stripes.count(sequence, part, length) if length else 0

    @invariant()
    def every_token_has_one_place(self) -> None:
        if not hasattr(self, "stripes"):
            return
        self.stripes.validate()
        assert sum(pages.num_free for pages in self.stripes._pages) == self.whole.num_free
        for sequence, length in self.lengths.items():
            counts = [0] * self.stripes.num_parts
            for part, begin, end in self.stripes.runs(sequence, 0, length):
                for position in range(begin, end):
                    assert self.stripes.count(sequence, part, position) == counts[part]
                    counts[part] += 1
            parts = range(self.stripes.num_parts)
            assert counts == [self.stripes.count(sequence, part, length) for part in parts]
            assert sum(counts) == length


TestDealing = Dealing.TestCase
TestDealing.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(4, 50), min_size=1, max_size=4), st.integers(1, 4))
def test_workers_fill_by_the_memory_that_they_have(counts: list[int], stripe_pages: int) -> None:
    stripes = Stripes(counts, 1, stripe_pages)
    assert stripes.grow(0, sum(counts) // 2)
    for full, other in permutations(stripes._pages, 2):  # a stripe ahead at most
        even = full.num_pages * other.num_used / other.num_pages
        assert full.num_used <= even + stripe_pages + 1e-6


@given(st.floats(0.01, 0.99), st.integers(0, 10**6), st.integers(1, 60))
def test_each_has_its_share_of_a_sequence(alpha: float, sequence: int, num_pages: int) -> None:
    stripes = Stripes([100, 100], 1, 1, [1 - alpha, alpha])
    for length in range(1, num_pages + 1):  # grown or given at once
        assert stripes.grow(sequence, length)
        assert abs(stripes.count(sequence, 1, length) - alpha * length) < 1 + 1e-6
    at_once = Stripes([100, 100], 1, 1, [1 - alpha, alpha])
    assert at_once.grow(sequence, num_pages)
    assert at_once._owners == stripes._owners


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("num_pages", [1, 2, 3])
def test_short_sequences_together_have_their_share_too(alpha: float, num_pages: int) -> None:
    stripes = Stripes([1000, 1000], 1, 1, [1 - alpha, alpha])
    assert all(stripes.grow(sequence, num_pages) for sequence in range(200))
    assert abs(stripes.pages(1).num_used - 200 * num_pages * alpha) <= 5


def test_who_is_full_lets_the_other_go_on() -> None:
    stripes = Stripes([10, 2], 1, 1, [0.2, 0.8])
    assert stripes.grow(0, 12)
    assert [stripes.count(0, part, 12) for part in range(2)] == [10, 2]
    assert not stripes.grow(0, 13)


def test_parts_of_pages_are_not_shared() -> None:
    stripes = Stripes([4, 4], 4, 1)
    assert stripes.grow(0, 7)
    with pytest.raises(AssertionError, match="whole pages"):
        stripes.share(0, 1, 6)
