"""Tokens and log-probabilities of many rows, on every instruction set and by torch, against one row
at a time."""

import numpy as np
import pytest
import torch
from sampling_cases import Cases, Row

from glinthawk import _native
from glinthawk.tier1.sampling.draws import DrawRules, draw_by_torch
from glinthawk.tier1.sampling.kernels import draw_by_kernel, rank_by_kernel
from glinthawk.tier1.sampling.ranking import rank_by_torch
from glinthawk.tier1.sampling.sampling_reference import score_token
from glinthawk.tier1.sampling.shaping import LogitEdits

VOCABULARIES = (8, 9, 100, 511, 513, 2000, 5000, 20_000)
WAYS = [*_native.supported_isas(), "torch"]


def _draw(
    way: str, logits: torch.Tensor, rules: list[DrawRules], edits: LogitEdits | None = None
) -> list[int]:
    if way == "torch":
        return draw_by_torch(logits, rules, edits)
    return draw_by_kernel(logits, rules, edits, isa=way)


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
@pytest.mark.parametrize("size", [8, 513, 5000])
def test_edited_rows_are_drawn_as_if_they_were_such(way: str, size: int) -> None:
    cases = Cases(size)
    for _ in range(10):
        logits, rules = cases.logits(8, size), [cases.rules(size) for _ in range(8)]
        counts = [cases.pick([0, 1, 5]) for _ in range(8)]
        chosen = [np.unique([cases.pick(range(size)) for _ in range(n)]) for n in counts]
        tokens, offsets = np.concatenate(chosen), np.cumsum([0, *map(len, chosen)])
        edits = LogitEdits(
            offsets, tokens.astype(np.int64), torch.tensor([9 * cases.number() - 5 for _ in tokens])
        )
        assert _draw(way, logits, rules, edits) == _draw(way, edits.apply(logits), rules)


def test_edits_beyond_the_vocabulary_are_refused() -> None:
    for token in (-1, 8):
        edits = LogitEdits(np.array([0, 1]), np.array([token]), torch.zeros(1))
        with pytest.raises(ValueError, match="no such token"):
            draw_by_kernel(torch.zeros(1, 8), [DrawRules(1.0, 0, 1.0, 0.0, 0.5)], edits)


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


# Log-probabilities


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [8, 700, 5000])
def test_rows_are_ranked_as_if_each_were_sorted(way: str, size: int) -> None:
    cases = Cases(size)
    for count in (0, 1, 5, min(size, 20)):
        logits = cases.logits(12, size)
        logits[1] = cases.pick([0.0, float("nan"), float("-inf")])
        tokens = [int(size * cases.number()) for _ in range(12)]
        rows = list(range(12))
        chosen, ids, values, ranks = (
            rank_by_torch(logits, rows, tokens, count)
            if way == "torch"
            else rank_by_kernel(logits, rows, tokens, count, way)
        )
        for row in rows:
            truth = score_token(logits[row].float(), tokens[row], count)
            if logits[row].amax().isfinite():
                assert chosen[row] == pytest.approx(truth.logprob, abs=1e-5, rel=1e-6)
                assert ranks[row] == truth.rank
                assert ids[row].tolist() == [token for token, _ in truth.top]
                found = [value for _, value in truth.top]
                assert values[row].tolist() == pytest.approx(found, abs=1e-5, rel=1e-6)
            else:
                assert chosen[row] != chosen[row]


def test_a_token_beyond_the_vocabulary_has_no_rank() -> None:
    for token in (-1, 8):
        with pytest.raises(ValueError, match="no such token"):
            rank_by_kernel(torch.zeros(1, 8), [0], [token], 1)
