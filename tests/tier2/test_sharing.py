"""Shared pages: whoever shares, writes and leaves, every sequence reads back its own tokens."""

from itertools import count

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glinthawk.core.config import PAGE_TOKENS
from glinthawk.core.errors import WireError
from glinthawk.core.spec import AttentionLayer
from glinthawk.tier2.cache import KVCache
from glinthawk.tier2.pages.page_table import PageTable
from glinthawk.wire.messages import Abandon, Attend, Begin, ReleaseKV, Spans
from worker_talk import NONE, Talk

LAYERS = (AttentionLayer(4, 2, 16, 16, 0.25), AttentionLayer(4, 2, 16, 16, 0.25, window=20))


class Memory(RuleBasedStateMachine):
    """Writes numbers instead of keys and values, and does the copies that it is told to do."""

    @initialize(num_pages=st.integers(2, 16), page_tokens=st.integers(1, 4))
    def begin(self, num_pages: int, page_tokens: int) -> None:
        self.table = PageTable(num_pages, page_tokens)
        self.slots: dict[tuple[int, int], int] = {}  # (page, offset) -> number
        self.truth: dict[int, list[int]] = {}
        self.numbers = count()

    @rule(sequence=st.integers(0, 4), length=st.integers(1, 9), back=st.integers(0, 5))
    def write(self, sequence: int, length: int, back: int) -> None:
        known = self.truth.get(sequence, [])
        start = max(0, len(known) - back)
        used = self.table.num_used
        try:
            copies = self.table.reserve([sequence], [start], [length])
        except WireError:
            assert self.table.num_used == used
            return
        for source, target in copies:
            for offset in range(self.table.page_tokens):
                self.slots[target, offset] = self.slots.get((source, offset), -1)
        written = [next(self.numbers) for _ in range(length)]
        self.truth[sequence] = known[:start] + written + known[start + length :]
        for position, number in enumerate(written, start=start):
            self.slots[self.place(sequence, position)] = number

    @rule(source=st.integers(0, 4), sequence=st.integers(5, 9), length=st.integers(1, 12))
    def share(self, source: int, sequence: int, length: int) -> None:
        known = self.truth.get(source, [])
        used = self.table.num_used
        if length > len(known) or sequence in self.truth:
            with pytest.raises(WireError):
                self.table.share(source, sequence, length)
        else:
            self.table.share(source, sequence, length)
            self.truth[sequence] = known[:length]
        assert self.table.num_used == used

    @rule(sequence=st.integers(5, 9), length=st.integers(1, 6), back=st.integers(0, 3))
    def write_to_a_sharer(self, sequence: int, length: int, back: int) -> None:
        self.write(sequence, length, back)

    @rule(sequence=st.integers(0, 9))
    def release(self, sequence: int) -> None:
        self.table.release([sequence])
        self.truth.pop(sequence, None)

    @rule(data=st.data())
    @precondition(lambda self: getattr(self, "truth", None))
    def rewind(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.truth)))
        start = data.draw(st.integers(0, len(self.truth[sequence])))
        self.table.rewind([sequence], [start])
        del self.truth[sequence][start:]

    def place(self, sequence: int, position: int) -> tuple[int, int]:
        page = self.table._pages.held[sequence][position // self.table.page_tokens]
        return page, position % self.table.page_tokens

    @invariant()
    def every_sequence_reads_back_its_own(self) -> None:
        if not hasattr(self, "table"):
            return
        self.table._pages.validate()
        for sequence, numbers in self.truth.items():
            places = [self.place(sequence, position) for position in range(len(numbers))]
            assert [self.slots[place] for place in places] == numbers

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.table.release(list(self.truth))
            assert self.table.num_used == 0


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def _rows(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (count, 4, 16), (count, 2, 16), (count, 2, 16)
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("shared", [PAGE_TOKENS, 2 * PAGE_TOKENS, 2 * PAGE_TOKENS - 7])
def test_a_fork_answers_as_if_it_had_computed_everything_itself(backend: str, shared: int) -> None:
    cache = KVCache(LAYERS, 1 << 20, "float32", backend=backend)
    prompt, own = _rows(2 * PAGE_TOKENS, 1), _rows(5, 2)
    (table,) = cache.begin([], ([1], [0], [2 * PAGE_TOKENS]))
    whole = [torch.cat([a[:shared], b]) for a, b in zip(prompt, own, strict=True)]
    _, alone = cache.begin([], ([], [], []), ([3], [0], [shared + 5]))
    outputs = []
    for layer in range(len(LAYERS)):
        cache.backend.append(layer, table, *prompt[1:])
        outputs.append(cache.backend.append_attend(layer, alone, *whole)[0][shared:])
    fork, _ = cache.begin([(1, 2, shared)], ([2], [shared], [5]), ([], [], []))
    for layer, expected in enumerate(outputs):
        torch.testing.assert_close(cache.backend.append_attend(layer, fork, *own)[0], expected)
    # The source has lost nothing, though the fork wrote behind a page that was not full.
    (again,) = cache.begin([], ([1], [2 * PAGE_TOKENS - 1], [1]))
    for layer, spec in enumerate(LAYERS):
        q, k, v = (tensor[-1:] for tensor in prompt)
        reference = KVCache((spec,), 1 << 20, "float32", backend="torch")
        (truth,) = reference.begin([], ([1], [0], [2 * PAGE_TOKENS]))
        expected = reference.backend.append_attend(0, truth, *prompt)[0][-1:]
        torch.testing.assert_close(cache.backend.append_attend(layer, again, q, k, v)[0], expected)


def test_forks_of_a_step_that_does_not_fit_are_undone() -> None:
    talk = Talk(LAYERS, pages=3)
    talk.open()
    talk.prefill(0, 7, 2 * PAGE_TOKENS, seed=1)
    message = Begin(1, Spans([8], [PAGE_TOKENS], [3 * PAGE_TOKENS]), NONE, [(7, 8, PAGE_TOKENS)])
    assert "pre-empt" in talk.fault(message).text
    # 8 has not begun: it may still begin with another's pages, and the one free page is there.
    message = Begin(1, Spans([8], [PAGE_TOKENS], [5]), NONE, [(7, 8, PAGE_TOKENS)])
    assert talk.say(message) is None


@pytest.mark.parametrize(
    ("forks", "reason"),
    [
        ([(99, 8, 5)], "no 5 tokens to share"),
        ([(7, 8, 41)], "no 41 tokens to share"),
        ([(7, 8, 0)], "no 0 tokens to share"),
        ([(7, 8, -3)], "no -3 tokens to share"),
        ([(7, 9, 5)], "9 begins with another's KV but is not in the step"),
        ([(7, 8, 5), (7, 8, 5)], "has KV already"),
        ([(7, 8, 4)], "no KV before position 5"),
    ],
)
def test_a_fork_that_cannot_be_is_a_fault(forks: list[tuple[int, int, int]], reason: str) -> None:
    talk = Talk(LAYERS)
    talk.open()
    talk.prefill(0, 7, 40, seed=1)
    assert reason in talk.fault(Begin(1, Spans([8], [5], [3]), NONE, forks)).text
    assert talk.say(Begin(1, Spans([8], [5], [3]), NONE, [(7, 8, 5)])) is None


def test_what_an_abandoned_step_wrote_is_not_attended_over() -> None:
    talk = Talk(LAYERS)
    talk.open()
    talk.prefill(0, 7, 5, seed=1)
    assert talk.say(Begin(1, Spans([7], [5], [2]), NONE)) is None
    talk.say(Attend(1, 0), *talk.frames(0, 2, 2))
    assert talk.say(Abandon(1)) is None
    assert "prefill" in talk.fault(Begin(2, Spans([7], [6], [1]), NONE)).text
    assert talk.say(Begin(2, Spans([7], [5], [1]), NONE)) is None


def test_a_released_source_leaves_its_pages_to_the_fork() -> None:
    talk = Talk(LAYERS)
    talk.open()
    talk.prefill(0, 7, PAGE_TOKENS, seed=1)
    begin = Begin(1, Spans([8], [PAGE_TOKENS], [1]), NONE, [(7, 8, PAGE_TOKENS)])
    assert talk.say(begin) is None
    before = [talk.say(Attend(1, layer), *talk.frames(layer, 3, 1)) for layer in range(2)]
    assert talk.say(ReleaseKV([7])) is None
    talk.prefill(2, 9, 8 * PAGE_TOKENS, seed=5)  # writes to whatever is free
    after = talk.decode(3, 8, PAGE_TOKENS, seed=3)
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        torch.testing.assert_close(talk.output(layer, old), new)
