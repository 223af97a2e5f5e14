"""From logits to tokens: the right sets, the right shares, and nobody's business but the row's."""

import math
from collections.abc import Sequence as Many
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from glinthawk.core.batch import Batch, Span
from glinthawk.core.sampling import SamplingParams
from glinthawk.core.sequence import Request, Sequence
from glinthawk.tier1.sampler import Sampled, sample_batch
from glinthawk.tier1.sampling.random_numbers import uniform
from glinthawk.tier1.sampling.sampling_reference import choose, shape_logits

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VOCAB = 8
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -4.0, 1.5])


def _sequence(
    output: Many[int] = (),
    *,
    prompt: Many[int] = (1, 2, 3),
    seed: int = 0,
    eos: frozenset[int] = frozenset(),
    **params: Any,
) -> Sequence:
    rules = SamplingParams(max_tokens=None, **params)
    request = Request(0, tuple(prompt), rules, seed, max_tokens=99, eos_token_ids=eos)
    return Sequence(request, output=list(output))


def _sample(sequences: list[Sequence], logits: torch.Tensor) -> list[Sampled]:
    spans = tuple(Span(s, home=0, start=s.length - 1, length=1) for s in sequences)
    return [token for (token,) in sample_batch(Batch(0, spans, ()), logits)]


# Random numbers


@pytest.mark.parametrize(
    ("seed", "position", "value"),
    [
        (0, 0, 0.0564663990004608),
        (1, 2, 0.6434025071674214),
        (-(2**63), 4095, 0.9322957565748835),
    ],
)
def test_random_numbers_are_the_same_for_ever(seed: int, position: int, value: float) -> None:
    assert uniform(seed, position) == value


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_random_numbers_fill_the_unit_interval_evenly(along: str) -> None:
    pairs = [(n, 5) if along == "seeds" else (5, n) for n in range(5000)]
    numbers = [uniform(*pair) for pair in pairs]
    assert all(0 <= number < 1 for number in numbers)
    counts = torch.histc(torch.tensor(numbers, dtype=torch.float64), 20, 0, 1)
    assert _chi_square(counts, torch.full((20,), 250.0)) < 43.8  # 99.9 % of 19 degrees
    assert len(set(numbers)) == 5000


def test_neighbours_in_seed_and_position_are_unrelated() -> None:
    """Seed + position must not be what counts: seed 1 at 2 is not seed 2 at 1."""
    numbers = [uniform(seed, position) for seed in range(60) for position in range(60)]
    assert len(set(numbers)) == 3600
    left = torch.tensor([uniform(seed, 0) for seed in range(3000)])
    right = torch.tensor([uniform(seed, 1) for seed in range(3000)])
    assert abs(float(torch.corrcoef(torch.stack([left, right]))[0, 1])) < 0.06


def _chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


# Which token


def test_greedy_takes_the_likeliest() -> None:
    (sampled,) = _sample([_sequence(temperature=0)], LOGITS.unsqueeze(0))
    assert sampled == Sampled(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_temperature_of_almost_nothing_is_greedy(dtype: torch.dtype) -> None:
    logits = LOGITS.unsqueeze(0).to(dtype)
    for temperature in (0, 1e-6, 2e-5, 1e-4):
        for seed in range(20):
            assert _sample([_sequence(seed=seed, temperature=temperature)], logits)[0].token == 0


def _counts(number: int = 3000, **params: Any) -> torch.Tensor:
    tokens = [choose(_sequence(seed=seed, **params), LOGITS) for seed in range(number)]
    return torch.bincount(torch.tensor(tokens), minlength=VOCAB).float()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_softmax_says(temperature: float) -> None:
    expected = 3000 * torch.softmax(LOGITS / temperature, dim=0)
    common = expected > 5
    counts = _counts(temperature=temperature)
    assert _chi_square(counts[common], expected[common]) < 24.3  # 99.9 % of 7 degrees
    assert counts[~common].sum() < 20


def test_truncation_keeps_the_shares_of_what_is_left() -> None:
    expected = 3000 * torch.softmax(LOGITS[[0, 1, 7]], dim=0)
    counts = _counts(top_k=3)
    assert counts[[0, 1, 7]].sum() == 3000
    assert _chi_square(counts[[0, 1, 7]], expected) < 13.8  # 99.9 % of 2 degrees


def test_positions_of_one_answer_draw_afresh() -> None:
    tokens = [choose(_sequence([0] * n, seed=3), LOGITS) for n in range(3000)]
    counts = torch.bincount(torch.tensor(tokens), minlength=VOCAB)[:6].float()
    expected = 3000 * torch.softmax(LOGITS, dim=0)[:6]
    assert _chi_square(counts, expected) < 24.3


def _kept(probabilities: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The plain reading of the rules, one token after another."""
    order = sorted(range(len(probabilities)), key=lambda token: (-probabilities[token], token))
    if top_k > 0:
        order = order[:top_k]
    total, nucleus, height = math.fsum(probabilities[t] for t in order), [], 0.0
    for token in order:
        if height >= top_p * total and top_p < 1:
            break
        nucleus.append(token)
        height += probabilities[token]
    least = min_p * probabilities[order[0]]
    return {token for token in nucleus if probabilities[token] >= least}


def _is_on_an_edge(probabilities: list[float], top_k: int, top_p: float, min_p: float) -> bool:
    """Whether rounding decides: a hair more or less would keep another set."""
    sets = [
        _kept(probabilities, top_k, min(1.0, top_p * factor) if top_p < 1 else 1.0, min_p * factor)
        for factor in (1 - 1e-9, 1 + 1e-9)
    ]
    return sets[0] != sets[1]


@QUIET
@given(
    weights=st.lists(st.integers(1, 50), min_size=VOCAB, max_size=VOCAB),
    top_k=st.integers(-1, VOCAB + 2),
    top_p=st.just(1.0) | st.floats(0.01, 1.0),
    min_p=st.just(0.0) | st.floats(0.0, 1.0),
)
def test_top_k_top_p_and_min_p_keep_exactly_the_right_tokens(
    weights: list[int], top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.tensor(weights, dtype=torch.float64).log().float()
    probabilities = torch.softmax(logits.double(), dim=0).tolist()
    assume(not _is_on_an_edge(probabilities, top_k, top_p, min_p))
    kept = _kept(probabilities, top_k, top_p, min_p)
    rules = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    drawn = {choose(_sequence(seed=seed, **rules), logits) for seed in range(150)}
    assert drawn <= kept
    surely = {t for t in kept if probabilities[t] / sum(probabilities[k] for k in kept) > 0.12}
    assert surely <= drawn


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 0}, {0, 1, 2, 3}),
        ({"top_k": -1}, {0, 1, 2, 3}),
        ({"top_p": 1e-9}, {0}),
        ({"top_p": 0.49}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"min_p": 0.49}, {0, 1}),
        ({"min_p": 0.24}, {0, 1, 2, 3}),
        ({"top_k": 2, "top_p": 0.6}, {0}),  # 0.5 of the 0.75 that top-k left is 0.67
        ({"top_k": 3, "min_p": 0.3}, {0, 1}),
    ],
)
def test_edges_of_truncation(rules: dict[str, Any], kept: set[int]) -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    assert {choose(_sequence(seed=s, **rules), logits) for s in range(200)} == kept


def test_ties_at_the_edge_fall_to_lower_ids() -> None:
    assert {choose(_sequence(seed=s, top_k=3), torch.zeros(VOCAB)) for s in range(99)} == {0, 1, 2}


@QUIET
@given(
    size=st.integers(1000, 20_000),
    sharpness=st.sampled_from([0.01, 1.0, 4.0]),
    top_k=st.sampled_from([0, 1, 50, 1500]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.001, 0.2]),
    seed=st.integers(0, 1000),
)
def test_large_vocabularies_are_truncated_as_if_all_were_sorted(
    size: int, sharpness: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # In bfloat16 there are ties everywhere.
    logits = (sharpness * torch.randn(size, generator=generator)).bfloat16().float()
    rules = {"temperature": 1.0, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    sequence = _sequence(seed=seed, **rules)
    probabilities = torch.softmax(logits.double(), dim=-1)
    ordered, order = probabilities.sort(descending=True, stable=True)
    keep = torch.ones(size, dtype=torch.bool)
    if top_k:
        keep[top_k:] = False
    if top_p < 1:
        kept = ordered * keep
        keep &= kept.cumsum(0) - kept < top_p * kept.sum()
    keep &= ordered >= min_p * ordered[0]
    keep[0] = True
    allowed = torch.zeros(size, dtype=torch.double)
    allowed[order[keep]] = ordered[keep]
    heights = allowed.cumsum(0) / allowed.sum()
    expected = int(torch.searchsorted(heights, uniform(seed, sequence.length), right=True))
    found = choose(sequence, logits)
    # Sums in another order may move an edge by a rounding error, to the next token that is kept.
    neighbours = allowed.nonzero().flatten().tolist()
    assert abs(neighbours.index(found) - neighbours.index(expected)) <= 1
    if found != expected:
        edge = heights[min(found, expected)]
        assert abs(float(edge) - uniform(seed, sequence.length)) < 1e-9


def test_more_than_all_tokens_are_all() -> None:
    for top_k in (VOCAB, 2**31, 10**400):
        sequences = [_sequence(seed=seed, top_k=top_k) for seed in range(50)]
        drawn = _sample(sequences, LOGITS.repeat(50, 1))
        assert [one.token for one in drawn] == [
            choose(_sequence(seed=s), LOGITS) for s in range(50)
        ]


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((VOCAB,), float("-inf"))
    logits[[2, 5]] = 0.0
    assert {choose(_sequence(seed=s), logits) for s in range(200)} == {2, 5}


# What happens to logits first


def test_repetition_divides_what_is_above_zero_and_multiplies_what_is_below() -> None:
    sequence = _sequence([5, 5, 6], prompt=(0, 0, 4), repetition_penalty=2.0)
    shaped = shape_logits(sequence, LOGITS)
    expected = LOGITS.clone()
    for token in {0, 4, 5, 6}:  # prompt and output, once each however often they came
        expected[token] = LOGITS[token] / 2 if LOGITS[token] > 0 else LOGITS[token] * 2
    assert torch.equal(shaped, expected)


def test_frequency_and_presence_count_the_output_alone() -> None:
    rules = {"frequency_penalty": 0.5, "presence_penalty": 0.25}
    shaped = shape_logits(_sequence([5, 5, 6], prompt=(0, 0, 4), **rules), LOGITS)
    expected = LOGITS.clone()
    expected[5] -= 2 * 0.5 + 0.25
    expected[6] -= 1 * 0.5 + 0.25
    assert torch.allclose(shaped, expected)


def test_negative_penalties_encourage() -> None:
    shaped = shape_logits(_sequence([3], presence_penalty=-1.5), LOGITS)
    assert shaped[3] == LOGITS[3] + 1.5


def test_bias_is_added_and_unknown_tokens_are_passed_over() -> None:
    shaped = shape_logits(_sequence(logit_bias={2: 7.5, 6: -100, 999: 50}), LOGITS)
    expected = LOGITS.clone()
    expected[2] += 7.5
    expected[6] -= 100
    assert torch.equal(shaped, expected)


def test_bias_and_penalties_add_up() -> None:
    rules: dict[str, Any] = {"logit_bias": {5: 3.0}, "presence_penalty": 1.0}
    assert shape_logits(_sequence([5], **rules), LOGITS)[5] == LOGITS[5] + 2


def test_a_large_bias_decides_greedy_and_sampled_answers() -> None:
    for temperature in (0.0, 1.0):
        rules: dict[str, Any] = {"logit_bias": {6: 100}, "temperature": temperature}
        (sampled,) = _sample([_sequence(**rules)], LOGITS.unsqueeze(0))
        assert sampled.token == 6


def test_an_answer_does_not_end_before_min_tokens() -> None:
    rules: dict[str, Any] = {"min_tokens": 2, "stop_token_ids": [7, 12_345]}
    for produced, banned in ((0, True), (1, True), (2, False), (3, False)):
        sequence = _sequence([3] * produced, eos=frozenset({0}), **rules)
        shaped = shape_logits(sequence, LOGITS)
        ends = torch.tensor([0, 7])
        assert torch.isinf(shaped[ends]).all() if banned else torch.equal(shaped, LOGITS)
        others = torch.tensor([1, 2, 3, 4, 5, 6])
        assert torch.equal(shaped[others], LOGITS[others])
        (sampled,) = _sample(
            [_sequence([3] * produced, eos=frozenset({0}), temperature=0, **rules)],
            LOGITS.unsqueeze(0),
        )
        assert sampled.token == (1 if banned else 0)


def test_min_tokens_without_ends_bans_nothing() -> None:
    assert torch.equal(shape_logits(_sequence(min_tokens=5), LOGITS), LOGITS)


def test_a_bias_cannot_lift_the_ban_on_ending() -> None:
    rules: dict[str, Any] = {"min_tokens": 1, "stop_token_ids": [0], "logit_bias": {0: 100}}
    assert {choose(_sequence(seed=s, **rules), LOGITS) for s in range(50)}.isdisjoint({0})


def test_the_models_own_logits_are_never_changed() -> None:
    before = LOGITS.clone()
    rules: dict[str, Any] = {"repetition_penalty": 2, "frequency_penalty": 1, "min_tokens": 3}
    _sample(
        [_sequence([1, 2], logit_bias={1: 5}, eos=frozenset({0}), **rules)], LOGITS.unsqueeze(0)
    )
    assert torch.equal(LOGITS, before)


# Log-probabilities


@pytest.mark.parametrize(
    "rules",
    [
        {"temperature": 0},
        {"temperature": 3.0},
        {"temperature": 0, "logit_bias": {6: 100}},
        {"top_k": 1, "repetition_penalty": 1.9},
    ],
)
@pytest.mark.parametrize("wanted", [0, 1, 3, 20])
def test_logprobs_are_those_of_the_model_itself(rules: dict[str, Any], wanted: int) -> None:
    (sampled,) = _sample([_sequence([1], logprobs=wanted, **rules)], LOGITS.unsqueeze(0))
    raw = torch.log_softmax(LOGITS, dim=0)
    assert sampled.logprobs is not None
    assert sampled.logprobs.token == sampled.token
    assert sampled.logprobs.logprob == pytest.approx(raw[sampled.token].item())
    order = sorted(range(VOCAB), key=lambda token: -raw[token].item())[:wanted]
    assert [token for token, _ in sampled.logprobs.top] == order
    values = [value for _, value in sampled.logprobs.top]
    assert values == pytest.approx([raw[token].item() for token in order])


def test_without_a_wish_there_are_no_logprobs() -> None:
    assert _sample([_sequence(temperature=1.0)], LOGITS.unsqueeze(0))[0].logprobs is None


# Rows


RULES = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.5]),
        "top_k": st.integers(0, 5),
        "top_p": st.sampled_from([0.3, 0.9]),
        "min_p": st.sampled_from([0.0, 0.2]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "frequency_penalty": st.sampled_from([-1.0, 1.0]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.integers(-5, 5), max_size=2),
        "logprobs": st.sampled_from([None, 0, 2]),
        "min_tokens": st.integers(0, 3),
    },
)


@QUIET
@given(
    st.lists(
        st.tuples(RULES, st.integers(0, 99), st.lists(st.integers(0, VOCAB - 1), max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_a_rows_answer_does_not_depend_on_the_others(
    rows: list[tuple[dict[str, Any], int, list[int]]],
) -> None:
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(len(rows)))
    members = [
        _sequence(output, seed=seed, eos=frozenset({0}), **rules) for rules, seed, output in rows
    ]
    together = _sample(members, logits)
    backwards = _sample(members[::-1], logits.flip(0))[::-1]
    alone = [_sample([member], logits[row : row + 1])[0] for row, member in enumerate(members)]
    assert together == backwards == alone
