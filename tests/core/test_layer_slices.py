"""Layers split into slices."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glinthawk.core.errors import UsageError
from glinthawk.core.slices import LayerSlice, split_layers


@given(st.integers(1, 130), st.integers(1, 130), st.integers(0, 9))
def test_slices_cover_every_layer_once_in_order(layers: int, slices: int, head: int) -> None:
    slices = min(slices, layers)
    parts = split_layers(layers, slices, head)
    assert len(parts) == slices
    assert parts[0].is_first and parts[-1].is_last
    assert all(before.last == after.first for before, after in pairwise(parts))
    assert [layer for part in parts for layer in range(layers) if layer in part] == list(
        range(layers)
    )


@given(st.integers(1, 130), st.integers(1, 130), st.integers(0, 9))
def test_no_layer_moved_elsewhere_would_make_the_slowest_slice_faster(
    layers: int, slices: int, head: int
) -> None:
    slices = min(slices, layers)
    parts = split_layers(layers, slices, head)
    work = [len(part) + head * part.is_last for part in parts]
    movable = [load for part, load in zip(parts, work, strict=True) if len(part) > 1]
    assert max(movable, default=0) <= min(work) + 1


@pytest.mark.parametrize("slices", [0, 4])
def test_a_slice_has_at_least_a_layer(slices: int) -> None:
    with pytest.raises(UsageError, match="choose between 1 and 3"):
        split_layers(3, slices)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 2), (2, 1), (1, 4)])
def test_a_slice_lies_within_its_model(first: int, last: int) -> None:
    with pytest.raises(UsageError, match="give first < last"):
        LayerSlice(first, last, 3)
