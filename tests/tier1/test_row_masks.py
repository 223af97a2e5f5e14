"""Rows with masks, on every instruction set and by torch, against rows whose other tokens are
impossible."""

import numpy as np
import pytest
import torch
from sampling_cases import Cases, Row

from glinthawk import _native
from glinthawk.tier1.sampling.draws import DrawRules, draw_by_torch
from glinthawk.tier1.sampling.kernels import draw_by_kernel
from glinthawk.tier1.sampling.row_masks import RowMasks
from glinthawk.tier1.sampling.shaping import LogitEdits

SIZES = (8, 33, 511, 513, 5000)
WAYS = [*_native.supported_isas(), "torch"]


def _draw(
    way: str,
    logits: torch.Tensor,
    rules: list[DrawRules],
    edits: LogitEdits | None = None,
    masks: RowMasks | None = None,
) -> list[int]:
    if way == "torch":
        return draw_by_torch(logits, rules, edits, masks)
    return draw_by_kernel(logits, rules, edits, masks, way)


def _masks(cases: Cases, logits: torch.Tensor) -> tuple[RowMasks, torch.Tensor]:
    """Of some rows, for more tokens than there are, or fewer; and (S, V) what they let come."""
    count, size = logits.shape
    rows = [row for row in range(count) if cases.pick([True, True, False])] or [0]
    num_words = max(1, -(-size // 32) + cases.pick([-1, 0, 0, 3]))
    draw = np.random.default_rng(cases.pick(range(1 << 20)))
    flags = np.zeros((len(rows), 32 * num_words), np.bool_)
    for its, row in zip(flags, rows, strict=True):
        share = cases.pick([0.0, 0.0, 0.002, 0.1, 0.9, 1.0])
        its[:] = draw.random(len(its)) < share
        its[cases.pick(range(min(size, len(its))))] = True
        possible = (logits[row] > -torch.inf).nonzero().flatten().tolist()
        its[cases.pick([token for token in possible if token < len(its)] or [0])] = True
    allowed = np.ones((count, size), np.bool_)
    known = min(size, 32 * num_words)
    allowed[rows] = False
    allowed[rows, :known] = flags[:, :known]
    bits = np.packbits(flags, axis=1, bitorder="little").view(np.int32)
    return RowMasks(rows, bits), torch.from_numpy(allowed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_masked_rows_are_drawn_as_if_each_were_sorted(way: str, size: int) -> None:
    cases = Cases(size)
    for _ in range(12 if size < 5000 else 2):
        logits, rules = cases.logits(12, size), [cases.rules(size) for _ in range(12)]
        masks, allowed = _masks(cases, logits)
        copy = logits.masked_fill(~allowed, float("-inf"))
        spoilt = logits.masked_fill(~allowed, cases.pick([float("nan"), float("inf"), 1e4]))
        before = spoilt.clone()
        drawn = _draw(way, spoilt, rules, None, masks)
        assert spoilt.nan_to_num().equal(before.nan_to_num())
        assert drawn == _draw(way, copy, rules)
        for row, token in enumerate(drawn):
            if copy[row].amax().isfinite():
                assert allowed[row, token]
                assert Row(copy[row], rules[row]).allows(token), (size, rules[row], token)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_edits_of_masked_rows_do_not_let_more_come(way: str, size: int) -> None:
    cases = Cases(size)
    for _ in range(8 if size < 5000 else 2):
        logits, rules = cases.logits(6, size), [cases.rules(size) for _ in range(6)]
        chosen = [
            np.unique([cases.pick(range(size)) for _ in range(n)]) for n in (0, 1, 5, 5, 9, 0)
        ]
        tokens, offsets = np.concatenate(chosen), np.cumsum([0, *map(len, chosen)])
        values = torch.tensor([9 * cases.number() - 5 for _ in tokens])
        edits = LogitEdits(offsets, tokens.astype(np.int64), values)
        masks, allowed = _masks(cases, logits)
        copy = edits.apply(logits).masked_fill(~allowed, float("-inf"))
        assert _draw(way, logits, rules, edits, masks) == _draw(way, copy, rules)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_which_nothing_may_come_has_no_token(way: str) -> None:
    masks = RowMasks([1], np.zeros((1, 40), np.int32))
    rules = [DrawRules(1.0, 0, 0.9, 0.0, 0.5)] * 2
    drawn = _draw(way, torch.zeros(2, 1300), rules, None, masks)
    assert drawn[0] >= 0
    assert drawn[1] == -1


def test_the_lowest_token_is_found() -> None:
    masks = RowMasks([2, 5], np.array([[0, 6], [-(1 << 31), -1]], np.int32))
    assert masks.lowest(2, 64) == 33
    assert masks.lowest(5, 64) == 31
