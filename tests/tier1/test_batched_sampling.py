"""A batch's tokens, log-probabilities and shaped logits against one row at a time."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling_cases import Cases, Row

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1 import sampler
from glinthawk.tier1.sampler import Sampled, sample_batch
from glinthawk.tier1.sampling import ranking, shaping
from glinthawk.tier1.sampling.draws import DrawRules
from glinthawk.tier1.sampling.random_numbers import uniform
from glinthawk.tier1.sampling.sampling_reference import (
    choose,
    limit_logits,
    rank_logprobs,
    shape_logits,
)
from glinthawk.tier1.sampling.shaping import edit_logits
from glinthawk.tier1.sampling.token_rules import TokenRules


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
        bad_words=cases.pick([(), ("bad",)]),
        allowed_token_ids=cases.pick([None, None, [*some(9), 1]]),
        logprobs=cases.pick([None, 0, 1, 20]),
    )
    if cases.pick([False, True]):
        rules = SamplingParams(max_tokens=None, temperature=cases.pick([0.0, 1.0]))
    output = some(6)
    bad = (tuple(output[-1:]), (*output[-2:], 3), tuple(some(4)), (size + 5,))
    request = Request(
        0,
        (1, *some(9)),
        rules,
        int(1e9 * cases.number()),
        99,
        frozenset({0}),
        bad_tokens=tuple(filter(None, bad)) if rules.bad_words else (),
    )
    return Sequence(request, output=output)


def _batch(sequences: list[Sequence]) -> Batch:
    return Batch(0, tuple(Span(one, 0, one.length - 1, 1) for one in sequences), ())


def _sample(sequences: list[Sequence], logits: torch.Tensor) -> list[Sampled]:
    return [one for (one,) in sample_batch(_batch(sequences), logits)]


def _check_sampled(sequence: Sequence, logits: torch.Tensor, sampled: Sampled) -> None:
    params = sequence.request.params
    if sampled.token != choose(sequence, logits):
        shaped = shape_logits(sequence, logits) if params.shapes_logits else logits
        shaped = limit_logits(sequence, shaped)
        assert not params.greedy
        number = uniform(sequence.request.seed, sequence.length)
        rules = (params.temperature, params.top_k, params.top_p, params.min_p, number)
        assert Row(shaped, DrawRules(*rules)).allows(sampled.token)
    if params.logprobs is None:
        assert sampled.logprobs is None
        return
    truth = rank_logprobs(logits, sampled.token, params.logprobs)
    assert sampled.logprobs is not None
    assert sampled.logprobs.token == sampled.token
    assert sampled.logprobs.logprob == pytest.approx(truth.logprob, abs=1e-5, rel=1e-6)
    assert [token for token, _ in sampled.logprobs.top] == [token for token, _ in truth.top]
    values = [value for _, value in sampled.logprobs.top]
    assert values == pytest.approx([value for _, value in truth.top], abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("has_kernel", [True, False])
def test_a_mixed_batch_is_sampled_as_each_row_alone(
    has_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernel:
        for module in (sampler, ranking):
            monkeypatch.setattr(module, "has_kernel", lambda _: False)
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
            edits = edit_logits(sequences, logits)
            shaped = logits if edits is None else edits.apply(logits)
            truth = [shape_logits(*pair) for pair in zip(sequences, logits, strict=True)]
            assert torch.equal(shaped, torch.stack(truth))
            for sequence in sequences:
                sequence.output += [int(60 * cases.number()) for _ in range(cases.pick([0, 1, 2]))]


def test_penalties_of_any_size_are_taken() -> None:
    logits = torch.tensor([[1.0, -1.0, 3e38, -3e38, 0.0, float("-inf"), float("nan"), 2.0]])
    for penalty in (1e-45, 1e-30, 1e38):
        params = SamplingParams(repetition_penalty=penalty, temperature=0.0)
        sequence = Sequence(Request(0, tuple(range(8)), params, 0, 9))
        edits = edit_logits([sequence], logits)
        assert edits is not None
        truth = shape_logits(sequence, logits[0])
        assert torch.equal(edits.apply(logits)[0].nan_to_num(7), truth.nan_to_num(7))


@given(st.lists(st.lists(st.integers(0, 40), max_size=60), max_size=4))
def test_counts_grow_as_tokens_come(steps: list[list[int]]) -> None:
    params = SamplingParams(presence_penalty=1.0, repetition_penalty=1.2, logit_bias={50: 1.0})
    sequence = Sequence(Request(0, (1, 2, 1), params, 0, 999))
    rules = TokenRules(sequence)
    for tokens in steps:
        sequence.output += tokens
        rules.catch_up(sequence.output)
        found = {int(token): (seen, count) for token, seen, count, _, _ in rules.table.T}
        come = {1, 2, *sequence.output}
        truth = {token: (1, sequence.output.count(token)) for token in come}
        assert found == truth | {50: (0, 0)}


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


@pytest.mark.parametrize("count", [15, 16, 17, 40, 1000])
def test_a_table_grows_while_it_is_filled(count: int) -> None:
    tokens = list(range(count))
    for rules in (
        SamplingParams(logit_bias=dict.fromkeys(tokens, 1.0)),
        SamplingParams(repetition_penalty=2.0),
        SamplingParams(min_tokens=2, stop_token_ids=tokens),
        SamplingParams(bad_words=["x"]),
    ):
        bad = tuple((token,) for token in tokens) if rules.bad_words else ()
        sequence = Sequence(Request(0, tuple(tokens), rules, 0, 9, bad_tokens=bad))
        logits = torch.ones(1, count + 3)
        edits = edit_logits([sequence], logits)
        assert edits is not None
        assert torch.equal(edits.apply(logits)[0], shape_logits(sequence, logits[0]))


def test_a_bad_word_is_banned_behind_its_beginning_alone() -> None:
    rules = SamplingParams(bad_words=["x"], temperature=0)
    logits = torch.tensor([[0.0, 1, 2, 3, 4]])

    def next_token(*output: int) -> int:
        request = Request(0, (1, 2, 3), rules, 0, 9, bad_tokens=((2, 3, 4),))
        [sampled] = _sample([Sequence(request, output=list(output))], logits)
        return sampled.token

    # What stands in the prompt is no part of the answer.
    assert [next_token(), next_token(2), next_token(3)] == [4, 4, 4]
    assert [next_token(2, 3), next_token(0, 2, 3), next_token(2, 3, 0)] == [3, 3, 4]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_chosen(temperature: float) -> None:
    rules = SamplingParams(allowed_token_ids=[7, 3], temperature=temperature)
    bound = [Sequence(Request(0, (1,), rules, seed, 9)) for seed in range(20)]
    free = Sequence(Request(0, (1,), SamplingParams(temperature=0), 0, 9))
    logits = torch.randn(21, 50, generator=torch.Generator().manual_seed(0))
    *chosen, other = _sample([*bound, free], logits)
    assert {one.token for one in chosen} == {3, 7}
    assert other.token == int(logits[-1].argmax())
    # A ban of all of them gives way.
    rules = SamplingParams(allowed_token_ids=[7, 3], logit_bias={3: -100, 7: -100}, min_tokens=1)
    request = Request(0, (1,), rules, 0, 9, frozenset({3, 7}))
    assert _sample([Sequence(request)], logits[:1])[0].token == 3
