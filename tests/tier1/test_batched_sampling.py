"""Batched sampling against one row at a time: the same tokens, log-probabilities and logits."""

import gc
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glinthawk import _native
from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1 import sampler
from glinthawk.tier1.sampler import Sampled, sample_batch
from glinthawk.tier1.sampling import shaping
from glinthawk.tier1.sampling.draws import DrawRules, draw_by_kernel, draw_by_torch
from glinthawk.tier1.sampling.reference import choose, rank_logprobs, shape_logits
from glinthawk.tier1.sampling.shaping import shape_rows
from glinthawk.tier1.sampling.token_counts import TokenCounts

#: How near, as a share of all, a draw or the edge of a nucleus lies where rounding may decide.
CLOSE = 1e-6
VOCABULARIES = (8, 9, 100, 511, 513, 2000, 5000, 20_000)
WAYS = [*_native.supported_isas(), "torch"]


@dataclass(frozen=True)
class Row:
    """What one row is drawn from, and by which rules."""

    logits: torch.Tensor
    rules: DrawRules
    #: Probabilities (V,) as temperature alone leaves them.
    probabilities: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        softmax = torch.softmax(self.logits.double() / self.rules.temperature, dim=-1)
        object.__setattr__(self, "probabilities", softmax)

    def kept(self, top_p: float, min_p: float) -> torch.Tensor:
        """Probabilities (V,), zero where they are truncated: all is sorted, in doubles."""
        ordered, order = self.probabilities.sort(descending=True, stable=True)
        if self.rules.top_k > 0:
            ordered = ordered.clone()
            ordered[self.rules.top_k :] = 0
        keep = ordered >= min_p * ordered[0]
        if top_p < 1:
            keep &= ordered.cumsum(0) - ordered < top_p * ordered.sum()
        keep[0] = True
        return torch.zeros_like(ordered).index_put((order,), ordered * keep)

    def allows(self, token: int) -> bool:
        """Whether rounding alone decides against ``token``, if anything does."""
        rules = self.rules
        return any(
            self._draws(token, self.kept(top_p, min_p))
            for top_p in {rules.top_p, *(_near(rules.top_p) if rules.top_p < 1 else ())}
            for min_p in {rules.min_p, *_near(rules.min_p)}
        )

    def _draws(self, token: int, kept: torch.Tensor) -> bool:
        heights = kept.cumsum(0) / kept.sum()
        above = float(heights[token])
        below = float(heights[token - 1]) if token else 0.0
        return bool(kept[token] > 0) and below - CLOSE <= self.rules.uniform <= above + CLOSE


def _near(value: float) -> tuple[float, float]:
    return value * (1 - CLOSE), min(value * (1 + CLOSE), 1.0)


def _draw(way: str, logits: torch.Tensor, rules: list[DrawRules]) -> list[int]:
    if way == "torch":
        return draw_by_torch(logits, rules)
    return draw_by_kernel(logits, list(range(len(rules))), rules, way)


class Cases:
    """Random rows, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def pick(self, values: Many[Any]) -> Any:
        return values[int(torch.randint(len(values), (), generator=self._generator))]

    def number(self) -> float:
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def rules(self, size: int) -> DrawRules:
        return DrawRules(
            self.pick([0.01, 0.3, 0.8, 1.0, 1.0, 3.0, 50.0]),
            self.pick([-1, 0, 0, 0, 1, 2, 5, 40, size // 2, size, size + 3]),
            self.pick([1.0, 1.0, 0.99, 0.95, 0.9, 0.5, 1e-6, self.number() or 1.0]),
            self.pick([0.0, 0.0, 0.0, 0.05, 0.5, 1.0, self.number()]),
            self.number(),
        )

    def logits(self, count: int, size: int) -> torch.Tensor:
        """(count, size): flat or steep, with many ties or few, with impossible tokens or none."""
        rows = torch.randn(count, size, generator=self._generator)
        rows *= self.pick([0.01, 1.0, 3.0, 10.0])
        if self.pick([False, True]):
            rows = rows.round(decimals=self.pick([0, 1]))
        rows += self.pick([0.0, 0.0, -30.0, 300.0])
        rows[torch.rand(count, size, generator=self._generator) < self.pick([0, 0, 0.3, 0.9])] = (
            float("-inf")
        )
        rows[:, self.pick(range(size))] = rows[:, 0].clamp(-300, 300)  # one at least is possible
        dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16, torch.float16]
        return rows.to(self.pick(dtypes))


def _check_draws(way: str, cases: Cases, count: int, size: int) -> None:
    logits, rules = cases.logits(count, size), [cases.rules(size) for _ in range(count)]
    together = _draw(way, logits, rules)
    for row, token in enumerate(together):
        assert Row(logits[row], rules[row]).allows(token), (size, logits.dtype, rules[row], token)
    backwards = _draw(way, logits.flip(0), rules[::-1])[::-1]
    some = count // 2
    alone = _draw(way, logits[some : some + 1], rules[some : some + 1])
    assert backwards == together
    assert alone == together[some : some + 1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", VOCABULARIES)
def test_rows_are_drawn_as_if_each_were_sorted(way: str, size: int) -> None:
    cases = Cases(size)
    for _ in range(24 if size < 5000 else 3):
        _check_draws(way, cases, 16, size)


@pytest.mark.parametrize("way", ["auto", "torch"])
def test_a_vocabulary_of_128k_is_drawn_from_alike(way: str) -> None:
    cases = Cases(1)
    for _ in range(2):
        _check_draws(way, cases, 6, 131_072)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [8, 700])
def test_rows_without_a_distribution_are_told(way: str, broken: float, size: int) -> None:
    logits = torch.zeros(2, size)
    logits[0] = float("-inf")
    logits[0, 5] = broken
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.5), (3, 0.5)):
        rules = [DrawRules(1.0, top_k, top_p, 0.0, 0.99)] * 2
        lost, drawn = _draw(way, logits, rules)
        assert lost == -1
        assert Row(logits[1], rules[1]).allows(drawn)


@pytest.mark.parametrize("way", WAYS)
def test_a_thread_more_changes_nothing(way: str) -> None:
    cases, before = Cases(7), torch.get_num_threads()
    logits, rules = cases.logits(40, 5000), [cases.rules(5000) for _ in range(40)]
    try:
        drawn = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            drawn.append(_draw(way, logits, rules))
    finally:
        torch.set_num_threads(before)
    assert drawn[0] == drawn[1] == drawn[2]


# With everything around


def _sequence(cases: Cases, size: int) -> Sequence:
    def some(most: int) -> list[int]:
        return [int(size * cases.number()) for _ in range(cases.pick(range(most)))]

    rules = SamplingParams(
        max_tokens=None,
        temperature=cases.pick([0.0, 0.0, 0.7, 1.5]),
        top_k=cases.pick([-1, 0, 3]),
        top_p=cases.pick([1.0, 0.9]),
        min_p=cases.pick([0.0, 0.2]),
        repetition_penalty=cases.pick([1.0, 1.0, 0.8, 1.3]),
        frequency_penalty=cases.pick([0.0, 0.0, -1.0, 0.7]),
        presence_penalty=cases.pick([0.0, 0.0, 0.3]),
        logit_bias={token: 10 * cases.number() - 5 for token in some(3)} | {size + 7: 9.0},
        min_tokens=cases.pick([0, 0, 3]),
        stop_token_ids=[*some(3), size + 1],
        logprobs=cases.pick([None, 0, 1, 20]),
    )
    if cases.pick([False, True]):
        rules = SamplingParams(max_tokens=None, temperature=cases.pick([0.0, 1.0]))
    request = Request(0, (1, *some(9)), rules, int(1e9 * cases.number()), 99, frozenset({0}))
    return Sequence(request, output=some(6))


def _batch(sequences: list[Sequence]) -> Batch:
    return Batch(0, tuple(Span(one, 0, one.length - 1, 1) for one in sequences), ())


def _sample(sequences: list[Sequence], logits: torch.Tensor) -> list[Sampled]:
    return [one for (one,) in sample_batch(_batch(sequences), logits)]


def _check_sampled(sequence: Sequence, logits: torch.Tensor, sampled: Sampled) -> None:
    params = sequence.request.params
    if sampled.token != choose(sequence, logits):
        shaped = shape_logits(sequence, logits) if params.shapes_logits else logits
        assert not params.greedy
        number = sampler.uniform(sequence.request.seed, sequence.length)
        rules = (params.temperature, params.top_k, params.top_p, params.min_p, number)
        assert Row(shaped, DrawRules(*rules)).allows(sampled.token)
    if params.logprobs is None:
        assert sampled.logprobs is None
        return
    truth = rank_logprobs(logits, sampled.token, params.logprobs)
    assert sampled.logprobs is not None
    assert sampled.logprobs.token == sampled.token
    assert sampled.logprobs.logprob == pytest.approx(truth.logprob, abs=1e-5)
    assert [token for token, _ in sampled.logprobs.top] == [token for token, _ in truth.top]
    values = [value for _, value in sampled.logprobs.top]
    assert values == pytest.approx([value for _, value in truth.top], abs=1e-5)


@pytest.mark.parametrize("has_kernel", [True, False])
def test_a_mixed_batch_is_sampled_as_each_row_alone(
    has_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernel:
        monkeypatch.setattr(sampler, "has_kernel", lambda _: False)
    cases = Cases(11)
    for _ in range(150):
        size = cases.pick([8, 30, 700])
        logits = cases.logits(8, size)
        sequences = [_sequence(cases, size) for _ in range(8)]
        before = logits.clone()
        together = _sample(sequences, logits)
        assert torch.equal(logits, before)
        for sequence, row, sampled in zip(sequences, logits, together, strict=True):
            _check_sampled(sequence, row.float(), sampled)
        # The sampler keeps counts of sequences: fresh ones come to the same.
        fresh = [Sequence(one.request, output=list(one.output)) for one in sequences]
        alone = [_sample([one], logits[row : row + 1])[0] for row, one in enumerate(fresh)]
        assert alone == together == _sample(sequences[::-1], logits.flip(0))[::-1]


def test_large_rows_have_the_same_logprobs_in_any_company() -> None:
    logits = torch.randn(9, 40_000, generator=torch.Generator().manual_seed(3)).bfloat16()
    sequences = [
        Sequence(Request(n, (1,), SamplingParams(logprobs=n % 5 * 5), n, 9)) for n in range(9)
    ]
    together = _sample(sequences, logits)
    assert [_sample([one], logits[n : n + 1])[0] for n, one in enumerate(sequences)] == together


def test_a_row_of_not_a_numbers_is_chosen_from_as_ever() -> None:
    logits = torch.full((3, 50), float("nan"))
    logits[1] = 0
    sequences = [
        Sequence(Request(n, (1,), SamplingParams(temperature=t, logprobs=2), 0, 9))
        for n, t in enumerate((1.0, 1.0, 0.0))
    ]
    tokens = [one.token for one in _sample(sequences, logits)]
    assert tokens == [choose(one, row) for one, row in zip(sequences, logits, strict=True)]


# Counts


def test_logits_are_shaped_to_the_same_bits() -> None:
    cases = Cases(5)
    for _ in range(100):
        logits = cases.logits(8, 60).float()
        sequences = [_sequence(cases, 60) for _ in range(8)]
        for _ in range(3):
            shaped = logits.clone()
            shape_rows(sequences, shaped)
            truth = [shape_logits(*pair) for pair in zip(sequences, logits, strict=True)]
            assert torch.equal(shaped, torch.stack(truth))
            for sequence in sequences:
                sequence.output += [int(60 * cases.number()) for _ in range(cases.pick([0, 1, 2]))]


@given(st.lists(st.lists(st.integers(0, 40), max_size=60), max_size=4))
def test_counts_grow_as_tokens_come(steps: list[list[int]]) -> None:
    counts, all_tokens = TokenCounts(), []
    for tokens in steps:
        counts.add(tokens)
        all_tokens += tokens
        found = dict(zip(counts.tokens.tolist(), counts.counts.tolist(), strict=True))
        assert found == {token: all_tokens.count(token) for token in set(all_tokens)}


def test_counts_die_with_their_sequence() -> None:
    params = SamplingParams(frequency_penalty=1.0, temperature=0.0)
    sequence = Sequence(Request(0, (1, 2), params, 0, 9), output=[4, 4])
    gc.collect()
    before = len(shaping._RULES)
    _sample([sequence], torch.zeros(1, 8))
    assert len(shaping._RULES) == before + 1
    del sequence
    gc.collect()
    assert len(shaping._RULES) == before
