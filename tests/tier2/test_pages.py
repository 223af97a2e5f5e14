"""The page table: every page is free or in one sequence, whatever is asked."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from glinthawk.core.errors import WireError
from glinthawk.tier2.pages.page_table import PageTable, SpanTable

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
Columns = tuple[list[int], list[int], list[int]]


def _pages_of(table: SpanTable) -> list[list[int]]:
    bounds = table.offsets.tolist()
    pages = table.pages.tolist()
    return [pages[first:last] for first, last in pairwise(bounds)]


class Book(RuleBasedStateMachine):
    """Keeps its own book of who holds how many tokens, and reads the pages back."""

    @initialize(num_pages=st.integers(1, 20), page_tokens=st.integers(1, 5))
    def begin(self, num_pages: int, page_tokens: int) -> None:
        self.table = PageTable(num_pages, page_tokens)
        self.tokens: dict[int, int] = {}
        self.pages: dict[int, list[int]] = {}
        self.peak = 0

    def needs(self, tokens: int) -> int:
        return -(-tokens // self.table.page_tokens)

    @rule(spans=st.dictionaries(st.integers(0, 6), st.integers(1, 9), max_size=4), data=st.data())
    def grow(self, spans: dict[int, int], data: st.DataObject) -> None:
        sequences, lengths = list(spans), list(spans.values())
        starts = [data.draw(st.integers(0, self.tokens.get(s, 0))) for s in sequences]
        wanted = {
            s: max(self.tokens.get(s, 0), start + length)
            for s, start, length in zip(sequences, starts, lengths, strict=True)
        }
        total = sum(self.needs(tokens) for tokens in {**self.tokens, **wanted}.values())
        if total > self.table.num_pages:
            with pytest.raises(WireError, match="pre-empt"):
                self.table.table(sequences, starts, lengths)
            return
        table = self.table.table(sequences, starts, lengths)
        self.tokens.update(wanted)
        self.peak = max(self.peak, total)
        self.check_table(table, (sequences, starts, lengths))

    def check_table(self, table: SpanTable, columns: Columns) -> None:
        _, starts, lengths = columns
        assert table.starts.tolist() == starts
        assert table.lengths.tolist() == lengths
        assert table.num_rows == sum(lengths)
        for sequence, start, length, pages in zip(*columns, _pages_of(table), strict=True):
            assert len(pages) == self.needs(start + length)
            before = self.pages.get(sequence, [])
            assert pages[: len(before)] == before[: len(pages)], "KV that was written has moved"
            self.pages[sequence] = max(before, pages, key=len)

    @rule(sequences=st.lists(st.integers(0, 6), max_size=3))
    def release(self, sequences: list[int]) -> None:
        self.table.release(sequences)
        for sequence in sequences:
            self.tokens.pop(sequence, None)
            self.pages.pop(sequence, None)

    @rule(sequence=st.integers(0, 6), beyond=st.integers(1, 9))
    def leave_a_gap(self, sequence: int, beyond: int) -> None:
        whole_pages = self.needs(self.tokens.get(sequence, 0)) * self.table.page_tokens
        with pytest.raises(WireError, match="prefill"):
            self.table.table([sequence], [whole_pages + beyond], [1])

    @invariant()
    def sums_hold(self) -> None:
        if not hasattr(self, "table"):
            return
        owned = [page for pages in self.pages.values() for page in pages]
        assert len(owned) == len(set(owned)), "a page in two places"
        assert set(owned) <= set(range(self.table.num_pages))
        assert self.table.num_used == len(owned)
        assert self.table.peak_used == self.peak

    def teardown(self) -> None:
        """All pages come back, and one sequence can then hold every one of them."""
        if not hasattr(self, "table"):
            return
        self.table.release(list(self.tokens))
        assert self.table.num_used == 0
        everything = self.table.num_pages * self.table.page_tokens
        (pages,) = _pages_of(self.table.table([99], [0], [everything]))
        assert sorted(pages) == list(range(self.table.num_pages))


TestBook = Book.TestCase
TestBook.settings = settings(QUIET, max_examples=60, stateful_step_count=30)


def test_the_example_of_the_documentation_holds() -> None:
    table = PageTable(10, 4)
    table.table([1], [0], [5])
    step = table.table([1, 2], [5, 0], [1, 3])
    assert step.starts.tolist() == [5, 0]
    assert step.lengths.tolist() == [1, 3]
    assert step.offsets.tolist() == [0, 2, 3]
    assert len(set(step.pages.tolist())) == 3


def test_running_out_gives_nothing_to_anyone() -> None:
    table = PageTable(3, 4)
    (before,) = _pages_of(table.table([1], [0], [4]))
    for columns in ([1, 2], [4, 0], [4, 8]), ([2, 1], [0, 4], [8, 4]), ([2], [0], [9]):
        with pytest.raises(WireError):
            table.table(*columns)
    assert table.num_used == table.peak_used == 1
    assert _pages_of(table.table([1, 2], [3, 0], [1, 8]))[0] == before


def test_a_gap_in_one_span_gives_nothing_to_the_others() -> None:
    table = PageTable(9, 4)
    with pytest.raises(WireError):
        table.table([1, 2], [0, 1], [4, 1])
    assert table.num_used == 0


def test_a_gap_within_a_page_is_refused_too() -> None:
    """Positions 3 and 4 were never written: whatever lies there is somebody else's."""
    table = PageTable(4, 32)
    table.table([1], [0], [3])
    with pytest.raises(WireError, match="prefill"):
        table.table([1], [5], [1])


def test_a_released_sequence_has_no_past() -> None:
    table = PageTable(4, 4)
    table.table([1], [0], [8])
    table.release([1, 1, 77])
    with pytest.raises(WireError):
        table.table([1], [8], [1])
    assert table.num_used == 0


@QUIET
@given(st.integers(2**20, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_absurd_spans_are_refused_before_a_page_is_touched(length: int, start: int) -> None:
    table = PageTable(8, 32)
    for columns in ([5], [0], [length]), ([5, 6], [0, start], [1, length]):
        with contextlib.suppress(WireError):
            table.table(*columns)
            pytest.fail("it was taken")
    assert table.num_used == table.peak_used == 0
