"""Layers split into slices."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.core.slices import LayerSlice, balance_layers, split_layers

_AMOUNTS = st.floats(0.1, 10.0)


@given(st.lists(_AMOUNTS, min_size=1, max_size=60), st.floats(0, 9), st.data())
def test_slices_cover_every_layer_once_in_order(
    work: list[float], head: float, data: st.DataObject
) -> None:
    speeds = data.draw(st.lists(_AMOUNTS, min_size=1, max_size=min(6, len(work))))
    parts = balance_layers(work, head, speeds)
    assert len(parts) == len(speeds)
    assert parts[0].is_first and parts[-1].is_last
    assert all(before.last == after.first for before, after in pairwise(parts))
    assert [layer for part in parts for layer in range(len(work)) if layer in part] == list(
        range(len(work))
    )


@given(st.lists(_AMOUNTS, min_size=4, max_size=9), st.floats(0, 9), st.data())
def test_no_other_cuts_make_the_slowest_slice_faster(
    work: list[float], head: float, data: st.DataObject
) -> None:
    speeds = data.draw(st.lists(_AMOUNTS, min_size=1, max_size=4))

    def slowest(ends: tuple[int, ...]) -> float:
        spans = zip(pairwise((0, *ends, len(work))), speeds, strict=True)
        *seconds, last = [sum(work[first:end]) / speed for (first, end), speed in spans]
        return max(*seconds, last + head / speeds[-1], 0.0)

    found = balance_layers(work, head, speeds)
    every = combinations(range(1, len(work)), len(speeds) - 1)
    assert slowest(tuple(part.last for part in found[:-1])) == pytest.approx(
        min(map(slowest, every))
    )


@given(st.integers(1, 130), st.integers(1, 12))
def test_equal_layers_are_split_equally_longer_slices_first(layers: int, slices: int) -> None:
    sizes = [len(part) for part in split_layers(layers, min(slices, layers))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@pytest.mark.parametrize("slices", [0, 4])
def test_a_slice_has_at_least_a_layer(slices: int) -> None:
    with pytest.raises(UsageError, match="choose between 1 and 3"):
        split_layers(3, slices)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 2), (2, 1), (1, 4)])
def test_a_slice_lies_within_its_model(first: int, last: int) -> None:
    with pytest.raises(UsageError, match="give first < last"):
        LayerSlice(first, last, 3)
